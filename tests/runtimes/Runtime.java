// Threads, garbage collection, compiled code, files, child processes, null checks by faults and an HTTP server.
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.IntStream;

public class Runtime {
    static long sum(long limit) {
        long total = 0;
        for (long i = 0; i < limit; i++)
            total = (total + i * i) % 1000003;
        return total;
    }

    public static void main(String[] arguments) throws Exception {
        var pool = Executors.newFixedThreadPool(8);
        List<Future<Long>> sums = new ArrayList<>();
        for (int i = 0; i < 50; i++) {
            int limit = i * 1000;
            sums.add(pool.submit(() -> sum(limit)));
        }
        long total = 0;
        for (var sum : sums)
            total += sum.get();
        System.out.println("threads " + total);
        System.out.println("parallel " + IntStream.range(0, 100000).parallel().mapToLong(i -> i % 7).sum());
        System.out.println("compiled " + sum(20_000_000));

        List<byte[]> kept = new LinkedList<>();
        for (int i = 0; i < 30000; i++) {
            kept.add(new byte[10000]);
            if (kept.size() > 1000)
                kept.remove(0);
        }
        System.gc();
        System.out.println("garbage " + kept.size());
        int caught = 0;
        for (int i = 0; i < 100000; i++) {
            try {
                Object nothing = i % 2 == 0 ? null : kept;
                caught += nothing.hashCode() == 0 ? 0 : 0;
            } catch (NullPointerException e) {
                caught++;
            }
        }
        System.out.println("null pointers " + caught);
        try {
            deeper(0);
        } catch (StackOverflowError e) {
            System.out.println("stack overflow");
        }

        var file = Files.createTempFile("runtime", "");
        Files.write(file, new byte[1 << 20]);
        var hash = MessageDigest.getInstance("SHA-256").digest(Files.readAllBytes(file));
        System.out.println("file " + HexFormat.of().formatHex(hash));
        Files.delete(file);

        var child = new ProcessBuilder("sh", "-c", "cat; exit 3").start();
        child.getOutputStream().write("through cat".getBytes());
        child.getOutputStream().close();
        System.out.println("child " + new String(child.getInputStream().readAllBytes()) + " " + child.waitFor());

        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        server.setExecutor(pool);
        server.createContext("/", exchange -> {
            var answer = (exchange.getRequestURI() + " " + exchange.getRequestBody().readAllBytes().length).getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
        var uri = URI.create("http://127.0.0.1:" + server.getAddress().getPort() + "/path");
        for (int size : new int[] { 1, 100000 }) {
            var request = HttpRequest.newBuilder(uri).POST(HttpRequest.BodyPublishers.ofByteArray(new byte[size])).build();
            var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println("http " + response.statusCode() + " " + response.body());
        }
        System.exit(0);
    }

    static int deeper(int depth) {
        return deeper(depth + 1) + depth;
    }
}
