// A client of the dispatcher in Java 17, with JeroMQ and Gson (Debian: libjeromq-java, libgoogle-gson-java). It was written
// from docs/protocol.md alone.
//
//   export CLASSPATH=/usr/share/java/jeromq.jar:/usr/share/java/gson.jar:.
//   javac Client.java
//   java Client submit ada order-17-shipped "Order shipped"
//
// The command line is explained in ../README.md. JeroMQ 0.3.6, which Debian has, knows no CURVE: there are no keys here.

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonParseException;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Pattern;
import org.zeromq.ZMQ;
import org.zeromq.ZMQException;

import static java.nio.charset.StandardCharsets.UTF_8;

public final class Client {
    static final String USAGE = "usage: client [OPTION VALUE]... submit USER KEY TITLE [KEY TITLE]... | send USER TITLE..."
        + " | status ID | status USER KEY | follow USER";

    static final int BATCH = 8192;      // bytes that JeroMQ writes at a time

    static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out), true, UTF_8);
    static final PrintStream ERR = new PrintStream(new FileOutputStream(FileDescriptor.err), true, UTF_8);
    static final Pattern CONTROLS = Pattern.compile("[\\p{Cntrl}\u0080-\u009f\u2028\u2029]");
    static final Gson GSON = new GsonBuilder()
        .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES).disableHtmlEscaping().create();

    // The documents, as far as this client needs them. An absent key is null, an unknown one is ignored.
    record Notification(String userId, String title, String idempotencyKey) {}

    record Answer(Boolean ok, Long seq, Problem error,
                  List<String> ids, List<Duplicate> duplicate, List<Rejected> rejected,    // submit
                  String id, List<Delivery> deliveries,                                    // status
                  List<Item> items, Long next) {}                                        // inbox.list

    record Problem(String code, String message, Long retryAfterMs) {
        boolean passes() {
            return "unavailable".equals(code) || "overloaded".equals(code);
        }

        @Override public String toString() {
            return code + ": " + message;
        }
    }

    record Duplicate(int index, boolean mismatch) {}

    record Rejected(int index, Problem error) {}

    record Delivery(String channel, String outcome, int attempts, String reason) {}

    record Item(Long cursor, String title) {}

    /** Ends the program with this exit code, and a line on standard error. */
    static final class Failure extends Exception {
        private static final long serialVersionUID = 1;
        final int exit;

        Failure(int exit, String line) {
            super(line);
            this.exit = exit;
        }

        static Failure usage(String what) {
            return new Failure(2, USAGE + ": " + what);
        }
    }

    /** A time from now on by which something has to be done. */
    record Deadline(long nanos) {
        static Deadline in(double seconds) {
            return new Deadline(System.nanoTime() + (long) (seconds * 1e9));
        }

        /** Milliseconds until then, rounded up; 0 when it is over. */
        int left() {
            return (int) Math.max(0, (nanos - System.nanoTime() + 999_999) / 1_000_000);
        }

        Deadline orEarlier(Deadline other) {
            return nanos - other.nanos < 0 ? this : other;
        }
    }

    /** The command line. */
    static final class Options {
        static final double FOR_EVER = 1e6;
        final Map<String, String> values = new HashMap<>(Map.of(
            "--submit", "tcp://127.0.0.1:7712", "--ingest", "tcp://127.0.0.1:7711", "--stream", "tcp://127.0.0.1:7713",
            "--timeout", "30", "--silence", "6", "--after", "0", "--count", "" + Long.MAX_VALUE));
        final double timeout;
        final double silence;
        final long after;
        final long count;
        final List<String> arguments;

        Options(String[] args) throws Failure {
            String encoding = System.getProperty("sun.jnu.encoding");       // what Java took the command line for
            if (!encoding.equals("UTF-8") && !String.join("", args).chars().allMatch(c -> c < 128)) {
                throw new Failure(2, "error: Java cannot read these arguments as " + encoding + "; set LC_ALL=C.UTF-8");
            }
            int i = 0;
            for (; i < args.length && args[i].startsWith("--"); i += 2) {
                if (!values.containsKey(args[i])) {
                    throw Failure.usage("unknown option " + args[i]);
                }
                if (i + 1 == args.length) {
                    throw Failure.usage(args[i] + " takes a value");
                }
                values.put(args[i], args[i + 1]);
            }
            arguments = Arrays.asList(args).subList(i, args.length);
            timeout = seconds("--timeout");
            silence = seconds("--silence");
            after = integer("--after", 0);
            count = integer("--count", 1);
        }

        double seconds(String name) throws Failure {
            try {
                double value = Double.parseDouble(values.get(name));
                if (value > 0) {
                    return Math.min(value, FOR_EVER);
                }
            } catch (NumberFormatException e) {
                // as below
            }
            throw Failure.usage(name + " takes a number of seconds");
        }

        long integer(String name, long least) throws Failure {
            try {
                long value = Long.parseLong(values.get(name));
                if (value >= least) {
                    return value;
                }
            } catch (NumberFormatException e) {
                // as below
            }
            throw Failure.usage(name + " takes a number of at least " + least);
        }
    }

    final Options options;
    final ZMQ.Context context;
    ZMQ.Socket requests;    // a DEALER, while it answers
    long seq;

    Client(Options options, ZMQ.Context context) {
        this.options = options;
        this.context = context;
    }

    public static void main(String[] args) {
        int exit;
        try {
            Options options = new Options(args);
            try (ZMQ.Context context = ZMQ.context(1)) {
                exit = new Client(options, context).run();
            }
        } catch (Failure e) {
            ERR.println(e.getMessage());
            exit = e.exit;
        }
        System.exit(exit);
    }

    int run() throws Failure {
        List<String> words = options.arguments;
        String command = words.isEmpty() ? "" : words.get(0);
        List<String> rest = words.subList(Math.min(1, words.size()), words.size());
        try {
            if (command.equals("submit") && rest.size() >= 3 && rest.size() % 2 == 1) {
                return submit(rest.get(0), rest.subList(1, rest.size()));
            } else if (command.equals("send") && rest.size() >= 2) {
                return send(rest.get(0), rest.subList(1, rest.size()));
            } else if (command.equals("status") && rest.size() == 1) {
                return status(Map.of("op", "status", "id", rest.get(0)));
            } else if (command.equals("status") && rest.size() == 2) {
                return status(Map.of("op", "status", "user_id", rest.get(0), "idempotency_key", rest.get(1)));
            } else if (command.equals("follow") && rest.size() == 1) {
                return follow(rest.get(0));
            }
            throw Failure.usage("no command, an unknown one, or a wrong number of arguments");
        } finally {
            closeRequests();
        }
    }

    // The commands.

    int submit(String user, List<String> keysAndTitles) throws Failure {
        List<Notification> notifications = new ArrayList<>();
        for (int i = 0; i < keysAndTitles.size(); i += 2) {
            notifications.add(new Notification(user, keysAndTitles.get(i + 1), keysAndTitles.get(i)));
        }
        Answer receipt = request(Map.of("op", "submit", "notifications", notifications));
        String[] lines = new String[notifications.size()];
        for (int i = 0; i < lines.length; i++) {
            lines[i] = "accepted " + notifications.get(i).idempotencyKey + " " + receipt.ids.get(i);
        }
        for (Duplicate it : receipt.duplicate) {
            lines[it.index] = (it.mismatch ? "mismatch " : "duplicate ")
                + notifications.get(it.index).idempotencyKey + " " + receipt.ids.get(it.index);
        }
        for (Rejected it : receipt.rejected) {
            lines[it.index] = "rejected " + notifications.get(it.index).idempotencyKey + " " + oneLine(it.error);
        }
        for (String line : lines) {
            OUT.println(line);
        }
        return receipt.rejected.isEmpty() ? 0 : 1;
    }

    int status(Map<String, Object> request) throws Failure {
        Answer answer = request(request);
        OUT.println("id " + answer.id);
        for (Delivery it : answer.deliveries) {
            OUT.println(String.join(" ", it.channel, it.outcome, "" + it.attempts, Optional.ofNullable(it.reason).orElse("-")));
        }
        return 0;
    }

    /** On ingest there is no answer. All that can be known is whether the message left this process. */
    int send(String user, List<String> titles) throws Failure {
        List<Notification> notifications = titles.stream().map(title -> new Notification(user, title, null)).toList();
        Deadline deadline = Deadline.in(options.timeout);
        // A context of its own: its end waits until the message is sent, or for the linger.
        try (ZMQ.Context own = ZMQ.context(1); ZMQ.Socket push = own.socket(ZMQ.PUSH)) {
            push.setDelayAttachOnConnect(true);     // ZMQ_IMMEDIATE: without a connection `send` waits instead of queueing
            connect(push, "--ingest");
            push.setSendTimeOut(deadline.left());
            byte[] message = json(notifications);
            boolean queued = push.send(message);
            if (queued && message.length >= BATCH / 2) {
                // JeroMQ 0.3.6 loses a message that it has half written when it is closed, whatever the linger. It is wholly
                // written once the second one after it goes out: lists of nothing, the first of more than JeroMQ's buffer.
                push.send("[" + " ".repeat(BATCH) + "]");
                push.send("[]");
            }
            push.setLinger(queued ? deadline.left() : 0);
        }
        if (deadline.left() == 0) {
            throw new Failure(3, "error: no connection to " + options.values.get("--ingest") + " within "
                + options.values.get("--timeout") + " s; it may not have been sent");
        }
        OUT.println("sent " + titles.size());
        return 0;
    }

    /** The stream is a hint, the inbox is the truth. */
    int follow(String user) throws Failure {
        byte[] topic = ("inapp." + user + "\0").getBytes(UTF_8);
        Follower follower = new Follower(options.after, options.count);
        try (ZMQ.Socket stream = context.socket(ZMQ.SUB)) {
            stream.setLinger(0);
            stream.subscribe(topic);
            connect(stream, "--stream");
            catchUp(user, follower);
            while (follower.left > 0) {
                List<byte[]> parts = receive(stream, Deadline.in(options.silence));
                if (parts.isEmpty()) {      // what got lost last leaves no gap
                    catchUp(user, follower);
                } else if (parts.size() == 2 && Arrays.equals(parts.get(0), topic)) {
                    Item item = parse(parts.get(1), Item.class);
                    if (item != null && item.cursor != null && !follower.take(item)) {
                        catchUp(user, follower);
                    }
                }
            }
        }
        return 0;
    }

    /** Reads the inbox to its end, from where the follower is. */
    void catchUp(String user, Follower follower) throws Failure {
        Long next = follower.cursor;
        while (next != null && follower.left > 0) {
            Answer page = request(Map.of("op", "inbox.list", "user_id", user, "cursor", next, "limit", 200));
            page.items.forEach(follower::skipTo);
            next = page.next;
        }
    }

    /** Prints items once each, and in order. */
    static final class Follower {
        long cursor;
        long left;

        Follower(long cursor, long left) {
            this.cursor = cursor;
            this.left = left;
        }

        /** False if there is a gap before the item. */
        boolean take(Item item) {
            if (item.cursor == cursor + 1) {
                skipTo(item);
            }
            return item.cursor <= cursor;
        }

        /** Takes an item of the inbox, which is in order; numbers that it leaves out are gone. */
        void skipTo(Item item) {
            if (item.cursor > cursor && left > 0) {
                cursor = item.cursor;
                left--;
                OUT.println(cursor + " " + escaped(GSON.toJson(item.title)));
            }
        }
    }

    // Requests.

    /**
     * Sends a request until there is an answer that says what became of it. Each sending has a seq of its own: only the
     * answer to the last one counts.
     */
    Answer request(Map<String, Object> request) throws Failure {
        Deadline deadline = Deadline.in(options.timeout);
        Problem last = null;
        while (deadline.left() > 0) {
            Map<String, Object> document = new LinkedHashMap<>(Map.of("seq", ++seq));   // first: a refusal always has it then
            document.putAll(request);
            if (requests == null) {
                requests = context.socket(ZMQ.DEALER);
                requests.setLinger(0);
                connect(requests, "--submit");
            }
            requests.send(new byte[0], ZMQ.SNDMORE | ZMQ.DONTWAIT);
            requests.send(json(document), ZMQ.DONTWAIT);
            Answer answer = answer(Deadline.in(options.silence).orEarlier(deadline));
            if (answer == null) {
                closeRequests();        // a new connection, in case that this one is dead and nobody told
            } else if (answer.ok) {
                return answer;
            } else if (!answer.error.passes()) {
                throw new Failure(1, "error: " + oneLine(answer.error));
            } else {
                last = answer.error;
                long retryAfter = Optional.ofNullable(last.retryAfterMs).orElse(200L);
                if (retryAfter > deadline.left()) {
                    break;
                }
                pause(retryAfter);
            }
        }
        throw new Failure(3, last != null ? "error: " + oneLine(last)
            : "error: no answer from " + options.values.get("--submit") + " within " + options.values.get("--timeout")
                + " s; to ask again is safe");
    }

    /** The answer to the last request; null if there is none in time. Everything else that comes is ignored. */
    Answer answer(Deadline deadline) {
        for (;;) {
            List<byte[]> parts = receive(requests, deadline);
            if (parts.isEmpty()) {
                return null;
            }
            Answer answer = parts.size() == 2 && parts.get(0).length == 0 ? parse(parts.get(1), Answer.class) : null;
            if (answer == null || answer.ok == null || !answer.ok && answer.error == null) {
                continue;
            }
            // One that could not be read may be refused without its seq.
            if (answer.seq == null ? !answer.ok : answer.seq == seq) {
                return answer;
            }
        }
    }

    void closeRequests() {
        if (requests != null) {
            requests.close();
            requests = null;
        }
    }

    // ZeroMQ, JSON and text.

    void connect(ZMQ.Socket socket, String option) throws Failure {
        String endpoint = options.values.get(option);
        try {
            if (endpoint.matches("tcp://[^*]+:\\d+")) {     // JeroMQ's ipc is not that of other libraries
                socket.connect(endpoint);
                return;
            }
        } catch (IllegalArgumentException | ZMQException e) {
            // as below
        }
        throw new Failure(2, "error: " + option + " " + endpoint + " is no endpoint");
    }

    /** The parts of the next message; none if nothing comes in time. */
    static List<byte[]> receive(ZMQ.Socket socket, Deadline deadline) {
        List<byte[]> parts = new ArrayList<>();
        socket.setReceiveTimeOut(deadline.left());
        byte[] part = socket.recv();
        while (part != null) {
            parts.add(part);
            part = socket.hasReceiveMore() ? socket.recv() : null;
        }
        return parts;
    }

    static byte[] json(Object document) {
        return GSON.toJson(document).getBytes(UTF_8);
    }

    static <T> T parse(byte[] document, Class<T> type) {
        try {
            return GSON.fromJson(new String(document, UTF_8), type);
        } catch (JsonParseException e) {
            return null;
        }
    }

    static String oneLine(Problem problem) {
        return CONTROLS.matcher(problem.toString()).replaceAll(" ");
    }

    static String escaped(String json) {
        return CONTROLS.matcher(json).replaceAll(it -> String.format("\\\\u%04x", (int) it.group().charAt(0)));
    }

    static void pause(long milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }
}
