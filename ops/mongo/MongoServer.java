import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import java.net.InetSocketAddress;
import java.util.List;

/** A server that speaks MongoDB's protocol: {@code java -cp 'lib/*' MongoServer.java FILE PORT}, on loopback. */
class Main {
    /** As shipped it calls itself older than what drivers accept; what the platform uses of 4.4 is there. */
    record Version(List<Integer> getVersionArray, int getWireVersion) implements MongoVersion {}

    public static void main(String[] arguments) throws InterruptedException {
        H2Backend backend = new H2Backend(arguments[0]);
        backend.version(new Version(List.of(4, 4, 0), 9));
        MongoServer server = new MongoServer(backend);
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow)); // writes what is not on disk yet
        server.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[1])));
        Thread.currentThread().join();
    }
}
