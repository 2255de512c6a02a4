"""Starts Python functions: the entry point of the managed Python runtimes.

It behaves as AWS's runtime interface client for Python (awslambdaric) does: how a handler is found, what the context
object has, what errors and log lines look like. It is not that client, because ours must work with every Python that a
host happens to have, offline and without a compiled extension, and because the time to the first line of user code
matters: a system call costs more in a microVM than on a host, so this file imports little, sends an answer and the
request for the next event together, and receives with one call what fits into one buffer. awslambdaric itself runs
unmodified as a function's own bootstrap. README.md lists the deliberate differences.

CPython 3.8 or later, standard library only.
"""

import sys

# The root file system is read-only: do not try to write compiled modules, which costs system calls at every import.
sys.dont_write_bytecode = True

import marshal
import os
import _frozen_importlib_external as importing
from _frozen_importlib import ModuleSpec

# The compiled standard library in one file, made with the runtime's image.
LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "library.pack")


class PackedLoader(importing.SourceFileLoader):
    """Loads a module of the pack; source, data and attributes are those of the file that it was compiled from."""

    library = None

    def get_code(self, fullname):
        return self.library.code(fullname)


class Library:
    """Finds modules of the standard library in the pack: three system calls for a module instead of about eleven.

    Only where the result is what it would be without: not for what a directory before the library on sys.path also has, and
    not once the function has changed the part of sys.path before the library.

    The pack: lengths of the two parts that follow (little-endian, 32 bits each); a marshalled (magic number of the
    interpreter, {name: (path, offset, length)}); the modules that this file needs; all others. Offsets count from the
    first module. Extension modules have a path and no content.
    """

    def __init__(self, path):
        self.path = path
        self.prefix = None
        self.shadowed = frozenset()
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            lengths = os.pread(descriptor, 8, 0)
            index, early = int.from_bytes(lengths[:4], "little"), int.from_bytes(lengths[4:], "little")
            head = os.pread(descriptor, index + early, 8)
        finally:
            os.close(descriptor)
        magic, self.modules = marshal.loads(head[:index])
        if magic != importing.MAGIC_NUMBER:
            raise ValueError("%s is for another version of Python" % path)
        self.start = 8 + index
        self.early = head[index:]

    def guard(self):
        """Called when sys.path is as the function finds it."""
        own = os.path.dirname(os.__file__)
        self.prefix = sys.path[: sys.path.index(own)] if own in sys.path else None
        self.early = b""
        names = set()
        for directory in self.prefix or ():
            try:
                names.update(name.partition(".")[0] for name in os.listdir(directory))
            except OSError:
                # Not there, as the archive that Python always names.
                pass
        self.shadowed = names

    def find_spec(self, name, path=None, target=None):
        found = self.modules.get(name)
        if found is None or name.partition(".")[0] in self.shadowed:
            return None
        if self.prefix is not None and sys.path[: len(self.prefix)] != self.prefix:
            return None
        location = found[0]
        directory = location.rpartition("/")[0]
        is_package = location.endswith("/__init__.py")
        if path is not None and list(path) != [directory.rpartition("/")[0] if is_package else directory]:
            return None
        if location.endswith(".so"):
            return importing.spec_from_file_location(name, location)
        loader = PackedLoader(name, location)
        places = [directory] if is_package else None
        return importing.spec_from_file_location(name, location, loader=loader, submodule_search_locations=places)

    def code(self, name):
        _, offset, length = self.modules[name]
        content = self.early[offset : offset + length]
        if len(content) < length:
            # Opened each time: a function may close any descriptor.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                content = os.pread(descriptor, length, self.start + offset)
            finally:
                os.close(descriptor)
        return marshal.loads(content)


def install_library():
    """Puts the pack before the usual search; None where there is none, and everything works without."""
    try:
        library = Library(LIBRARY)
    except (OSError, ValueError, EOFError, TypeError):
        return None
    PackedLoader.library = library
    sys.meta_path.insert(sys.meta_path.index(importing.PathFinder), library)
    return library


library = install_library()

import json
import time
from _socket import AF_INET, SOCK_STREAM, socket

API = "/2018-06-01/runtime/"
# Most events fit, and are received with one call.
BUFFER_BYTES = 64 * 1024
# Longest head of an answer of the Runtime API; the client context is in it.
HEAD_BYTES_MAX = 1024 * 1024


class Fault(Exception):
    """An error that the runtime finds, and not the function's own code."""

    def __init__(self, error_type, message, stack_trace=None):
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.stack_trace = stack_trace or []


class ApiError(Exception):
    """The Runtime API did not answer as it must: nothing can be done but to end."""


class RuntimeApi:
    """The client of the Runtime API: one connection, kept open, with pipelined requests."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.host = address.encode()
        self.connection = socket(AF_INET, SOCK_STREAM)
        self.connection.connect((host, int(port)))
        self.buffer = bytearray(BUFFER_BYTES)
        # What of the buffer has been received and not been used.
        self.start = self.end = 0
        self.next_request = b"GET %sinvocation/next HTTP/1.1\r\nHost: %s\r\n\r\n" % (API.encode(), self.host)
        self.is_next_sent = False

    def next(self):
        """Waits for an event; returns the answer's headers and the event's bytes."""
        if not self.is_next_sent:
            self.connection.sendall(self.next_request)
        self.is_next_sent = False
        status, headers, body = self.receive()
        if status != 200:
            raise ApiError("the Runtime API answered %d to the request for the next event: %r" % (status, body[:200]))
        return headers, body

    def respond(self, request_id, body, content_type):
        """Answers an event and asks for the next one."""
        self.post_and_next("invocation/%s/response" % request_id, body, content_type, "")

    def fail(self, request_id, error):
        """Answers an event with an error and asks for the next one."""
        extra = "Lambda-Runtime-Function-Error-Type: %s\r\n" % header_text(error["errorType"])
        self.post_and_next("invocation/%s/error" % request_id, encode_error(error), "application/json", extra)

    def fail_init(self, error, error_type=None, path="init/error"):
        """Says that no event can be handled."""
        extra = "Lambda-Runtime-Function-Error-Type: %s\r\n" % header_text(error_type or error["errorType"])
        self.connection.sendall(self.post(path, encode_error(error), "application/json", extra))
        self.receive()

    def restore_next(self):
        """Waits to be saved, and returns in a copy: what names it."""
        self.connection.sendall(b"GET %srestore/next HTTP/1.1\r\nHost: %s\r\n\r\n" % (API.encode(), self.host))
        status, headers, body = self.receive()
        if status != 200:
            raise ApiError("the Runtime API answered %d to the request to be saved: %r" % (status, body[:200]))
        return headers.get("calypte-generation")

    def post_and_next(self, path, body, content_type, extra):
        self.connection.sendall(self.post(path, body, content_type, extra) + self.next_request)
        self.is_next_sent = True
        # Accepted, or too large, or too late: the platform has reported that by itself, and there is a next event.
        self.receive()

    def post(self, path, body, content_type, extra):
        head = "POST %s%s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n"
        return (head % (API, path, self.host.decode(), content_type, len(body), extra)).encode() + body

    def receive(self):
        """One answer: status, headers with names in lower case, body."""
        head_end = self.receive_head()
        head = bytes(self.buffer[self.start : head_end]).decode("utf-8", "surrogateescape")
        self.start = head_end + 4
        lines = head.split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        try:
            status, length = int(lines[0].split(" ", 2)[1]), int(headers.get("content-length", "x"))
        except (IndexError, ValueError):
            raise ApiError("the Runtime API sent something that is not an answer with a length: %r" % head[:200])
        return status, headers, self.receive_body(length)

    def receive_head(self):
        """Receives until a head is complete; returns the position of its end."""
        searched = self.start
        while True:
            head_end = self.buffer.find(b"\r\n\r\n", searched, self.end)
            if head_end >= 0:
                return head_end
            # The end mark may be split.
            searched = max(self.start, self.end - 3)
            if self.start == self.end:
                self.start = self.end = searched = 0
            elif self.end == len(self.buffer):
                if self.end - self.start > HEAD_BYTES_MAX:
                    raise ApiError("the Runtime API sent a head of more than %d bytes" % HEAD_BYTES_MAX)
                self.buffer[: self.start] = b""
                self.buffer.extend(bytes(BUFFER_BYTES))
                searched, self.end, self.start = searched - self.start, self.end - self.start, 0
            self.end += self.receive_into(memoryview(self.buffer)[self.end :])

    def receive_body(self, length):
        available = min(length, self.end - self.start)
        body = bytes(self.buffer[self.start : self.start + available])
        self.start += available
        if available == length:
            return body
        rest = bytearray(length)
        rest[:available] = body
        view = memoryview(rest)
        while available < length:
            available += self.receive_into(view[available:])
        return bytes(rest)

    def receive_into(self, view):
        with view:
            count = self.connection.recv_into(view)
        if count == 0:
            raise ApiError("the Runtime API has closed the connection")
        return count


class Named:
    """An object with the fields of a dictionary, None where there is none."""

    __slots__ = ()

    @classmethod
    def of(cls, fields):
        if fields is None:
            return None
        named = cls()
        for name in cls.__slots__:
            setattr(named, name, fields.get(name))
        return named

    def __repr__(self):
        fields = ",".join("%s=%s" % (name, getattr(self, name)) for name in self.__slots__)
        return "%s([%s])" % (type(self).__name__, fields)


class CognitoIdentity(Named):
    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(Named):
    __slots__ = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")


class ClientContext(Named):
    __slots__ = ("custom", "env", "client")


class LambdaContext:
    """What a handler may know about its invocation."""

    def __init__(self, headers):
        self.aws_request_id = headers.get("lambda-runtime-aws-request-id")
        self.log_group_name = os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn")
        self.tenant_id = headers.get("lambda-runtime-aws-tenant-id")
        self.client_context = ClientContext.of(json_header(headers, "client-context", "Client Context"))
        if self.client_context is not None:
            self.client_context.client = Client.of(self.client_context.client)
        identity = json_header(headers, "cognito-identity", "Cognito Identity") or {}
        self.identity = CognitoIdentity()
        self.identity.cognito_identity_id = identity.get("cognitoIdentityId")
        self.identity.cognito_identity_pool_id = identity.get("cognitoIdentityPoolId")
        self._deadline_ms = int(headers.get("lambda-runtime-deadline-ms", 0))

    def get_remaining_time_in_millis(self):
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, msg):
        sys.stdout.write(str(msg))

    def __repr__(self):
        names = (
            "aws_request_id log_group_name log_stream_name function_name memory_limit_in_mb function_version "
            "invoked_function_arn client_context identity tenant_id"
        )
        fields = ",".join("%s=%s" % (name, getattr(self, name)) for name in names.split())
        return "LambdaContext([%s])" % fields


def json_header(headers, name, title):
    text = headers.get("lambda-runtime-" + name)
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Fault("Runtime.LambdaContextUnmarshalError", "Unable to parse %s JSON: %s" % (title, error))
    if value is not None and not isinstance(value, dict):
        message = "Unable to parse %s JSON: it is not an object" % title
        raise Fault("Runtime.LambdaContextUnmarshalError", message)
    return value


class LoggingHook:
    """Prepares the logging module when a function imports it, and costs nothing when none does.

    A finder at the front of sys.meta_path that lets the others find the module and adds a step after its execution.
    """

    request_id = ""
    tenant_id = None

    def find_spec(self, name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                execute = spec.loader.exec_module

                def exec_module(module):
                    execute(module)
                    self.prepare(module)

                # An instance attribute: the loader serves this module only.
                spec.loader.exec_module = exec_module
                return spec
        return None

    def prepare(self, logging):
        hook = self

        class LambdaLoggerHandler(logging.Handler):
            def emit(self, record):
                try:
                    text = self.format(record)
                    # A traceback comes after the format's own line end.
                    sys.stdout.write(text if text.endswith("\n") else text + "\n")
                except Exception:
                    self.handleError(record)

        class LambdaLoggerFilter(logging.Filter):
            def filter(self, record):
                record.aws_request_id = hook.request_id
                record.tenant_id = hook.tenant_id
                return True

        logging.Formatter.converter = time.gmtime
        handler = LambdaLoggerHandler()
        line = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
        handler.setFormatter(logging.Formatter(line, "%Y-%m-%dT%H:%M:%S"))
        handler.addFilter(LambdaLoggerFilter())
        logging.getLogger().addHandler(handler)


class SnapshotHooks:
    """AWS's library of hooks, for functions that do not bring it: the last finder of sys.meta_path."""

    name = "snapshot_restore_py"

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == self.name else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        before_snapshot, after_restore = [], []

        def register_before_snapshot(func, *args, **kwargs):
            """Has `func` called before the environment is saved; what was registered last comes first."""
            before_snapshot.append((func, args, kwargs))
            return func

        def register_after_restore(func, *args, **kwargs):
            """Has `func` called in each copy of the saved environment, in the order of registration."""
            after_restore.append((func, args, kwargs))
            return func

        module.register_before_snapshot = register_before_snapshot
        module.register_after_restore = register_after_restore
        module.get_before_snapshot = lambda: before_snapshot
        module.get_after_restore = lambda: after_restore
        module.__all__ = ["register_before_snapshot", "register_after_restore"]


def run_hooks(api):
    """Runs what the function has registered, where the environment is saved; returns the generation that is known then."""
    hooks = sys.modules.get(SnapshotHooks.name)
    if hooks is None or os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
        return None
    try:
        before_snapshot = hooks.get_before_snapshot()
        while before_snapshot:
            func, args, kwargs = before_snapshot.pop()
            func(*args, **kwargs)
    except Exception as error:
        give_up(api, error, "Runtime.BeforeSnapshotError", "init/error", 64)
    if not hooks.get_after_restore():
        # Saved in the request for the first event: copies have a round trip less.
        return None
    flush()
    generation = api.restore_next()
    if generation is not None:
        reseed()
    try:
        for func, args, kwargs in hooks.get_after_restore():
            func(*args, **kwargs)
    except Exception as error:
        give_up(api, error, "Runtime.AfterRestoreError", "restore/error", 65)
    return generation


def give_up(api, error, error_type, path, status):
    document = error_document(error)
    log_error(document)
    flush()
    api.fail_init(document, error_type, path)
    sys.exit(status)


def find_handler(name):
    """The function that `module.function` or `package/module.function` names."""
    module_name, dot, function_name = name.rpartition(".")
    if not dot:
        message = "Bad handler '%s': not enough values to unpack (expected 2, got 1)" % name
        raise Fault("Runtime.MalformedHandlerName", message)
    if module_name.split(".")[0] in sys.builtin_module_names:
        message = "Cannot use built-in module %s as a handler module" % module_name
        raise Fault("Runtime.BuiltInModuleConflict", message)
    import_name = module_name.replace("/", ".")
    try:
        __import__(import_name)
    except ImportError as error:
        message = "Unable to import module '%s': %s" % (module_name, error)
        raise Fault("Runtime.ImportModuleError", message)
    except SyntaxError as error:
        trace = ['  File "%s" Line %s\n    %s' % (error.filename, error.lineno, error.text)]
        message = "Syntax error in module '%s': %s" % (module_name, error)
        raise Fault("Runtime.UserCodeSyntaxError", message, trace)
    try:
        return getattr(sys.modules[import_name], function_name)
    except AttributeError:
        message = "Handler '%s' missing on module '%s'" % (function_name, module_name)
        raise Fault("Runtime.HandlerNotFound", message)


class Marshaller:
    """JSON as awslambdaric writes it: text that is not ASCII as it is from 3.12 on, decimals as numbers."""

    def __init__(self):
        self.decimals = {}
        self.encoder = json.JSONEncoder(ensure_ascii=sys.version_info < (3, 12), default=self.default)

    def marshal(self, response):
        if isinstance(response, bytes):
            return response, "application/unknown"
        try:
            text = self.encoder.encode(response)
            if self.decimals:
                text = self.with_decimals(text)
            return text.encode(), "application/json"
        except Exception as error:
            raise Fault("Runtime.MarshalError", "Unable to marshal response: %s" % describe(error))
        finally:
            self.decimals.clear()

    def default(self, value):
        decimal = sys.modules.get("decimal")
        if decimal is not None and isinstance(value, decimal.Decimal):
            if value.is_nan():
                return float("nan")
            # The encoder cannot write a number of its own form: a text that nothing else contains takes its place.
            mark = "decimal-%s-%d" % (os.urandom(16).hex(), len(self.decimals))
            self.decimals[mark] = str(value)
            return mark
        raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)

    def with_decimals(self, text):
        import re

        return re.sub('"(decimal-[0-9a-f]{32}-[0-9]+)"', lambda mark: self.decimals.get(mark[1], mark[0]), text)


def unmarshal(body):
    try:
        return json.loads(body)
    except Exception as error:
        raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % describe(error))


def describe(error):
    try:
        return str(error)
    except Exception:
        return "<the exception's text cannot be made>"


def error_document(error, request_id=""):
    """What is reported of an exception: for one of the function's own, with the frames of its code."""
    if isinstance(error, Fault):
        error_type, message, stack_trace = error.error_type, error.message, error.stack_trace
    else:
        import traceback

        own_file = find_handler.__code__.co_filename
        frames = [(f.filename, f.lineno, f.name, f.line) for f in traceback.extract_tb(error.__traceback__)]
        first = next((index for index, frame in enumerate(frames) if frame[0] != own_file), 0)
        error_type, message = type(error).__name__, describe(error)
        stack_trace = traceback.format_list(frames[first:])
    return {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": stack_trace}


def encode_error(error):
    # Escaped, so that text which is no valid Unicode can be reported too.
    return json.dumps(error).encode()


def header_text(text):
    """What can be in a header of any text."""
    return "".join(c for c in text if " " < c < "\x7f")[:200] or "Error"


def log_error(error):
    lines = ["[ERROR] %s: %s" % (error["errorType"], error["errorMessage"])]
    if not error["errorMessage"]:
        lines = ["[ERROR] %s" % error["errorType"]]
    lines.append("Traceback (most recent call last):")
    for entry in error["stackTrace"]:
        lines.extend(entry.splitlines())
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())


def flush():
    """Output without a line end belongs to the invocation that wrote it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            # The function closed or replaced it.
            pass


def serve(api, handler, hook, generation=None):
    marshaller = Marshaller()
    while True:
        headers, body = api.next()
        if headers.get("calypte-generation", generation) != generation:
            generation = headers["calypte-generation"]
            reseed()
        request_id = headers.get("lambda-runtime-aws-request-id", "")
        hook.request_id, hook.tenant_id = request_id, headers.get("lambda-runtime-aws-tenant-id")
        trace_id = headers.get("lambda-runtime-trace-id")
        if trace_id is not None:
            os.environ["_X_AMZN_TRACE_ID"] = trace_id
        elif "_X_AMZN_TRACE_ID" in os.environ:
            del os.environ["_X_AMZN_TRACE_ID"]
        try:
            context = LambdaContext(headers)
            response, content_type = marshaller.marshal(handler(unmarshal(body), context))
        except Exception as error:
            document = error_document(error, request_id)
            log_error(document)
            flush()
            api.fail(request_id, document)
        else:
            flush()
            api.respond(request_id, response, content_type)


def set_paths(task_root):
    """A function's own modules first, then those of its layers, as Lambda has it."""
    version = "python%d.%d" % sys.version_info[:2]
    layers = ["/opt/python/lib/%s/site-packages" % version, "/opt/python"]
    # The first entry is the directory of this file, which holds nothing for functions.
    sys.path[:1] = [task_root] + [path for path in layers if os.path.isdir(path)]


def reseed():
    """Called in a copy of a saved process, before it handles its first event: other copies must not draw the same numbers.

    What the function has made of random numbers by itself (an instance of random.Random, a token) is the same in all copies.
    """
    # OpenSSL's generators take up what they are given before they give anything.
    generators = (("random", "seed", ()), ("numpy.random", "seed", ()), ("_ssl", "RAND_add", (os.urandom(64), 64.0)))
    for module, name, arguments in generators:
        function = getattr(sys.modules.get(module), name, None)
        if function is not None:
            function(*arguments)
    if "tempfile" in sys.modules:
        # Its generator of names is made anew.
        sys.modules["tempfile"]._name_sequence = None


def main():
    sys.stdout.reconfigure(encoding="utf-8", line_buffering=True)
    sys.stderr.reconfigure(encoding="utf-8", line_buffering=True)
    hook = LoggingHook()
    sys.meta_path.insert(0, hook)
    sys.meta_path.append(SnapshotHooks())
    api = RuntimeApi(os.environ["AWS_LAMBDA_RUNTIME_API"])
    set_paths(os.environ.get("LAMBDA_TASK_ROOT", "/var/task"))
    if library is not None:
        library.guard()
    try:
        handler = find_handler(os.environ.get("_HANDLER", ""))
    except Exception as error:
        give_up(api, error, None, "init/error", 1)
    serve(api, handler, hook, run_hooks(api))


if __name__ == "__main__":
    main()
