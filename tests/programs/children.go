// Programs that a Go program starts: their output, input, exit status, signals and time limits.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	output, err := exec.Command("sh", "-c", "echo to stdout; echo to stderr >&2; exit 3").CombinedOutput()
	fmt.Printf("%q %v\n", output, err)

	upper := exec.Command("tr", "a-z", "A-Z")
	upper.Stdin = strings.NewReader(strings.Repeat("line\n", 50000))
	output, err = upper.Output()
	fmt.Println(len(output), bytes.Count(output, []byte("LINE\n")), err)

	_, err = exec.Command("/no/such/program").Output()
	fmt.Println(err)

	within, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	fmt.Println(exec.CommandContext(within, "sleep", "60").Run(), within.Err())

	var all sync.WaitGroup
	codes := make([]int, 16)
	for n := range codes {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			command := exec.Command("sh", "-c", fmt.Sprintf("exit %d", n))
			command.Run()
			codes[n] = command.ProcessState.ExitCode()
		}(n)
	}
	all.Wait()
	fmt.Println(codes)

	group := exec.Command("sh", "-c", "sleep 60 & wait")
	group.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	fmt.Println(group.Start())
	fmt.Println(syscall.Kill(-group.Process.Pid, syscall.SIGTERM), group.Wait())

	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	fmt.Println(exec.Command("sh", "-c", "kill -USR1 $PPID").Run(), <-told)
}
