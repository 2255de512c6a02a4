# Threads, files, child processes, signals and sockets.
use strict;
use warnings;
use threads;
use Digest::SHA;
use IO::Socket::INET;
use IPC::Open2;
use File::Temp 'tempfile';
$| = 1;

print 'threads ', join(',', map { $_->join } map { threads->create(sub { $_[0] * 2 }, $_) } 1 .. 5), "\n";
my ($file, $path) = tempfile(UNLINK => 1);
print $file "\0" x (1 << 20);
close $file;
print 'file ', Digest::SHA->new(256)->addfile($path)->hexdigest, "\n";
print 'backquotes ', join(' ', split /\n/, `printf 'b\\na\\n' | sort`), "\n";
my $child = open2(my $out, my $in, 'sh', '-c', 'cat; exit 3');
print $in 'through cat';
close $in;
print 'child ', <$out>;
waitpid $child, 0;
print ' ', $? >> 8, "\n";
my $caught = 0;
$SIG{USR1} = sub { $caught++ };
kill 'USR1', $$;
print "signal $caught\n";
eval { local $SIG{ALRM} = sub { die "alarm\n" }; alarm 1; sleep 100; };
print "interrupted by $@";
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) or die $!;
my $pid = fork;
if (!$pid) {
    my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server->sockport) or die $!;
    print $client "line\n";
    print 'socket ', scalar <$client>;
    exit 4;
}
my $client = $server->accept;
print $client uc <$client>;
close $client;
waitpid $pid, 0;
print 'fork ', $? >> 8, "\n";
