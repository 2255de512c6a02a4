# Threads, garbage, files, child processes and sockets.
require 'digest'
require 'json'
require 'open3'
require 'socket'
require 'tempfile'

puts "threads #{(1..50).map { |n| Thread.new { n * n } }.sum(&:value)}"
objects = Array.new(200_000) { |n| "text #{n}" }
objects = nil
GC.start
puts "collections #{GC.count > 0}"
Tempfile.create('runtime') do |file|
  file.write("\0" * (1 << 20))
  file.flush
  puts "file #{Digest::SHA256.file(file.path).hexdigest}"
end
output, status = Open3.capture2('cat; exit 3', stdin_data: 'through cat')
puts "child #{output} #{status.exitstatus}"
puts "backquotes #{`printf 'b\\na\\n' | sort`.split.inspect}"
reader, writer = IO.pipe
pid = fork { writer.puts({ 'from' => 'child', 'sum' => (1..100).sum }.to_json) }
writer.close
puts "fork #{JSON.parse(reader.read)} #{Process.wait2(pid)[1].exitstatus}"
sleeping = spawn('sleep 100')
Process.kill('TERM', sleeping)
puts "killed #{Process.wait2(sleeping)[1].termsig}"
received = Queue.new
trap('USR1') { received << 'USR1' }
Process.kill('USR1', Process.pid)
puts "signal #{received.pop}"
server = TCPServer.new('127.0.0.1', 0)
accepting = Thread.new { 3.times { client = server.accept; client.puts(client.gets.upcase); client.close } }
3.times do |n|
  TCPSocket.open('127.0.0.1', server.addr[1]) { |socket| socket.puts("line #{n}"); puts "socket #{socket.gets}" }
end
accepting.join
