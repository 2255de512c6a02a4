/* What a program finds at its start: arguments, environment, auxiliary vector, alignment, zeroed memory. */
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <unistd.h>

static char zeros[100000];
static int initialised = 42;
static _Thread_local int local = 7;

int main(int argc, char **argv, char **environment)
{
    for (int i = 1; i < argc; i++)
        printf("argument %d: [%s]\n", i, argv[i]);
    for (char **e = environment; *e; e++)
        printf("environment: %s\n", *e);
    Elf64_auxv_t *auxv = (void *)environment;
    char **e = environment;
    while (*e++) { }
    for (auxv = (void *)e; auxv->a_type != AT_NULL; auxv++)
        if (auxv->a_type == AT_PAGESZ || auxv->a_type == AT_CLKTCK || auxv->a_type == AT_PHENT)
            printf("auxiliary %lu = %lu\n", auxv->a_type, auxv->a_un.a_val);
    printf("platform %s\n", (char *)getauxval(AT_PLATFORM));
    printf("same name %d\n", strrchr((char *)getauxval(AT_EXECFN), '/') != 0);
    unsigned char *random = (void *)getauxval(AT_RANDOM);
    int sum = 0;
    for (int i = 0; i < 16; i++)
        sum |= random[i];
    printf("random %d\n", sum != 0);
    Elf64_Phdr *headers = (void *)getauxval(AT_PHDR);
    int loads = 0;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
        loads += headers[i].p_type == PT_LOAD;
    printf("loads %d\n", loads > 1);
    printf("vdso %d\n", memcmp((void *)getauxval(AT_SYSINFO_EHDR), ELFMAG, 4) == 0);
    for (unsigned i = 0; i < sizeof zeros; i++)
        if (zeros[i])
            return 1;
    printf("initialised %d, thread-local %d\n", initialised, local);
    printf("aligned %d\n", ((uintptr_t)__builtin_frame_address(0) & 15) == 0);
    struct utsname name;
    uname(&name);
    printf("%s %s\n", name.sysname, name.machine);
    return 5;
}
