<?php
// Garbage, files, child processes and sockets.
$total = 0;
for ($i = 0; $i < 1000000; $i++) $total = ($total + $i * $i) % 1000003;
echo "loop $total\n";
for ($i = 0; $i < 100000; $i++) { $a = new stdClass; $b = new stdClass; $a->b = $b; $b->a = $a; }
echo "cycles ", gc_status()['runs'] > 0 || gc_collect_cycles() > 0 ? 'collected' : 'kept', "\n";
$file = tempnam(sys_get_temp_dir(), 'runtime');
file_put_contents($file, str_repeat("\0", 1 << 20));
echo 'file ', hash_file('sha256', $file), "\n";
unlink($file);
echo 'shell ', trim(shell_exec("printf 'b\\na\\n' | sort | tr '\\n' ' '")), "\n";
$child = proc_open(['sh', '-c', 'cat; exit 3'], [['pipe', 'r'], ['pipe', 'w']], $pipes);
fwrite($pipes[0], 'through cat');
fclose($pipes[0]);
echo 'child ', stream_get_contents($pipes[1]), ' ', proc_close($child), "\n";
$server = stream_socket_server('tcp://127.0.0.1:0');
$name = stream_socket_get_name($server, false);
$php = PHP_BINARY;
$code = '$c = stream_socket_client("tcp://" . $argv[1]); fwrite($c, "line\n"); echo fgets($c);';
$child = proc_open([$php, '-r', $code, $name], [['file', '/dev/null', 'r'], ['pipe', 'w']], $pipes);
$client = stream_socket_accept($server, 30);
fwrite($client, strtoupper(fgets($client)));
fclose($client);
echo 'socket ', stream_get_contents($pipes[1]), proc_close($child), "\n";
echo 'json ', json_encode(preg_split('/,\s*/', 'a, b,c')), "\n";
