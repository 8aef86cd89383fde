/* A client of the dispatcher in C, with libzmq and jansson (Debian: libzmq3-dev, libjansson-dev).
 *
 *   cc -O2 -Wall -Wextra -o client client.c -lzmq -ljansson
 *   ./client submit ada order-17-shipped "Order shipped"
 *
 * The command line is explained in ../README.md, the protocol in docs/protocol.md.
 */
#define _GNU_SOURCE
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

enum { DONE = 0, REFUSED = 1, USAGE = 2, LATER = 3 }; /* exit codes */
enum { PAGE = 500, PAUSE_MS = 100, ERROR_SIZE = 1000 };

static const char NOT_UTF8[] = "what is not UTF-8 cannot be sent";

struct client {
    const char *submit, *ingest, *stream;
    const char *timeout, *silence; /* seconds, as given */
    const char *keys[3]; /* files: the server's public key, our public one, our secret one */
    long after, count;
    void *context, *requests; /* `requests` is the DEALER */
    int seq;
};

static int fail(int code, const char *what, const char *detail)
{
    fprintf(stderr, "error: %s%s%s\n", what, detail ? ": " : "", detail ? detail : "");
    return code;
}

static long milliseconds(const char *seconds)
{
    return (long)(strtod(seconds, NULL) * 1000);
}

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static long until(long ms)
{
    long left = ms - now_ms();
    return left > 0 ? left : 0;
}

/* --- sockets ------------------------------------------------------------------------------------------------ */

static bool set_key(void *socket, int option, const char *path)
{
    char key[41] = "";
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(key, 1, 40, file) : 0;
    if (file)
        fclose(file);
    return length == 40 && zmq_setsockopt(socket, option, key, sizeof key) == 0;
}

/* A connected socket; NULL after saying why there is none. */
static void *connected(const struct client *client, int type, const char *endpoint, const char *topic, size_t size)
{
    static const int KEYS[] = {ZMQ_CURVE_SERVERKEY, ZMQ_CURVE_PUBLICKEY, ZMQ_CURVE_SECRETKEY};
    void *socket = zmq_socket(client->context, type);
    int timeout_ms = (int)milliseconds(client->timeout), linger_ms = 0, immediate = 1;
    if (type == ZMQ_PUSH) { /* sending waits for a connection, and closing until all is sent */
        linger_ms = timeout_ms;
        zmq_setsockopt(socket, ZMQ_IMMEDIATE, &immediate, sizeof immediate);
    }
    zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &timeout_ms, sizeof timeout_ms);
    if (type == ZMQ_SUB)
        zmq_setsockopt(socket, ZMQ_SUBSCRIBE, topic, size);
    for (int at = 0; at < 3; at++)
        if (client->keys[at] && !set_key(socket, KEYS[at], client->keys[at])) {
            fail(USAGE, client->keys[at], "no key of 40 characters");
            zmq_close(socket);
            return NULL;
        }
    if (zmq_connect(socket, endpoint) != 0) {
        fail(USAGE, endpoint, zmq_strerror(zmq_errno()));
        zmq_close(socket);
        return NULL;
    }
    return socket;
}

static bool send_document(void *socket, const json_t *document)
{
    char *text = json_dumps(document, JSON_COMPACT);
    bool sent = text && zmq_send(socket, text, strlen(text), 0) >= 0;
    free(text);
    return sent;
}

/* The document in the last part of the next message; NULL if none comes in time, or what comes is no JSON object. */
static json_t *receive_document(void *socket, long wait_ms)
{
    zmq_pollitem_t item = {socket, 0, ZMQ_POLLIN, 0};
    json_t *document = NULL;
    int more = zmq_poll(&item, 1, wait_ms) == 1;
    while (more) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        json_decref(document);
        document = NULL;
        if (zmq_msg_recv(&part, socket, 0) > 0)
            document = json_loadb(zmq_msg_data(&part), zmq_msg_size(&part), JSON_ALLOW_NUL, NULL);
        more = zmq_msg_more(&part);
        zmq_msg_close(&part);
    }
    if (!json_is_object(document)) {
        json_decref(document);
        return NULL;
    }
    return document;
}

/* --- requests ----------------------------------------------------------------------------------------------- */

/* The answer to request `seq`; NULL if none comes in time. What belongs to an earlier request is dropped. The answer to
 * a request that could not be read has no `seq`. */
static json_t *receive_answer(const struct client *client, int seq, long deadline_ms)
{
    do {
        json_t *answer = receive_document(client->requests, until(deadline_ms));
        json_t *of = json_object_get(answer, "seq");
        if (json_object_get(answer, "ok") && (!of || json_integer_value(of) == seq))
            return answer;
        json_decref(answer);
    } while (until(deadline_ms) > 0);
    return NULL;
}

/* What the answer comes to: an exit code, with the error's text and how long to wait before the next try. */
static int judged(const json_t *answer, char *error, int *retry_ms)
{
    const char *code, *message;
    *retry_ms = PAUSE_MS;
    if (json_is_true(json_object_get(answer, "ok")))
        return DONE;
    if (json_unpack((json_t *)answer, "{s:{s:s, s:s, s?i}}", "error", "code", &code, "message", &message,
                    "retry_after_ms", retry_ms) != 0)
        return LATER;
    snprintf(error, ERROR_SIZE, "%s: %s", code, message);
    return strcmp(code, "unavailable") == 0 || strcmp(code, "overloaded") == 0 ? LATER : REFUSED;
}

/* Sends a request, and the same again after silence, `unavailable` and `overloaded`, until the timeout: what was taken
 * the first time comes back as a duplicate. Returns the answer, or NULL after saying why not, with the exit code in
 * *code. Takes over the reference to the request. */
static json_t *ask(struct client *client, json_t *request, int *code)
{
    char error[ERROR_SIZE];
    int retry_ms;
    long deadline_ms = now_ms() + milliseconds(client->timeout), silence_ms = milliseconds(client->silence);
    json_t *answer = NULL;

    *code = USAGE;
    if (!request)
        fail(USAGE, NOT_UTF8, NULL);
    else if (!client->requests)
        client->requests = connected(client, ZMQ_DEALER, client->submit, NULL, 0);
    if (request && client->requests) {
        *code = LATER;
        json_object_set_new(request, "seq", json_integer(++client->seq));
        snprintf(error, sizeof error, "no answer from %s within %s s; is it there, and are the keys right?",
                 client->submit, client->timeout);
    }
    while (*code == LATER && until(deadline_ms) > 0) {
        long silent_ms = now_ms() + silence_ms;
        /* a DEALER sends the empty delimiter itself; where it cannot be sent there will be no answer either */
        if (zmq_send(client->requests, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
            send_document(client->requests, request);
        answer = receive_answer(client, client->seq, silent_ms < deadline_ms ? silent_ms : deadline_ms);
        if (!answer)
            continue;
        *code = judged(answer, error, &retry_ms);
        if (*code == DONE)
            break;
        json_decref(answer);
        answer = NULL;
        if (*code == REFUSED || retry_ms > until(deadline_ms))
            break;
        zmq_poll(NULL, 0, retry_ms);
    }
    json_decref(request);
    if (*code == REFUSED || *code == LATER)
        fail(*code, error, NULL);
    return answer;
}

/* --- commands ----------------------------------------------------------------------------------------------- */

/* One notification for each title, with the key before it if they are `keyed`; NULL if something is not UTF-8. */
static json_t *notifications_to(const char *user, int argc, char **argv, bool keyed)
{
    json_t *notifications = json_array();
    for (int at = keyed; at < argc; at += 1 + keyed) {
        json_t *one = json_pack("{s:s, s:s*, s:s}", "user_id", user, "idempotency_key", keyed ? argv[at - 1] : NULL,
                                "title", argv[at]);
        if (json_array_append_new(notifications, one) != 0) {
            json_decref(notifications);
            return NULL;
        }
    }
    return notifications;
}

static int submit(struct client *client, int argc, char **argv) /* USER KEY TITLE [KEY TITLE]... */
{
    int code, count = (argc - 1) / 2;
    json_t *notifications = notifications_to(argv[0], argc - 1, argv + 1, true);
    json_t *receipt = ask(client, json_pack("{s:s, s:o}", "op", "submit", "notifications", notifications), &code);
    if (!receipt)
        return code;

    json_t *entry, *ids = json_object_get(receipt, "ids");
    const char **words = calloc(count, sizeof *words);
    size_t at;
    for (int index = 0; index < count; index++)
        words[index] = "accepted";
    json_array_foreach(json_object_get(receipt, "duplicate"), at, entry) {
        json_int_t index = json_integer_value(json_object_get(entry, "index"));
        if (index >= 0 && index < count)
            words[index] = json_is_true(json_object_get(entry, "mismatch")) ? "mismatch" : "duplicate";
    }
    for (int index = 0; index < count; index++) {
        const char *id = json_string_value(json_array_get(ids, index)), *error = "?", *message = "?";
        if (id) {
            printf("%s %s %s\n", words[index], argv[2 * index + 1], id);
            continue;
        }
        json_array_foreach(json_object_get(receipt, "rejected"), at, entry)
            if (json_integer_value(json_object_get(entry, "index")) == index)
                json_unpack(entry, "{s:{s:s, s:s}}", "error", "code", &error, "message", &message);
        printf("rejected %s %s: %s\n", argv[2 * index + 1], error, message);
        code = REFUSED;
    }
    free(words);
    json_decref(receipt);
    return code;
}

static int send_off(struct client *client, int argc, char **argv) /* USER TITLE... */
{
    json_t *notifications = notifications_to(argv[0], argc - 1, argv + 1, false);
    if (!notifications)
        return fail(USAGE, NOT_UTF8, NULL);
    void *socket = connected(client, ZMQ_PUSH, client->ingest, NULL, 0);
    int code = socket ? DONE : USAGE;
    if (socket && !send_document(socket, notifications)) {
        fprintf(stderr, "error: no connection to %s within %s s; is it there, and are the keys right?\n",
                client->ingest, client->timeout);
        code = LATER;
    }
    if (code == DONE)
        printf("sent %zu\n", json_array_size(notifications));
    if (socket)
        zmq_close(socket);
    json_decref(notifications);
    return code;
}

static int status(struct client *client, int argc, char **argv) /* ID | USER KEY */
{
    int code;
    size_t at;
    json_t *delivery;
    json_t *answer = ask(client, argc == 1
        ? json_pack("{s:s, s:s}", "op", "status", "id", argv[0])
        : json_pack("{s:s, s:s, s:s}", "op", "status", "user_id", argv[0], "idempotency_key", argv[1]), &code);
    if (!answer)
        return code;
    printf("id %s\n", json_string_value(json_object_get(answer, "id")));
    json_array_foreach(json_object_get(answer, "deliveries"), at, delivery) {
        const char *channel = "?", *outcome = "?", *reason = json_string_value(json_object_get(delivery, "reason"));
        int attempts = 0;
        json_unpack(delivery, "{s:s, s:s, s:i}", "channel", &channel, "outcome", &outcome, "attempts", &attempts);
        printf("%s %s %d %s\n", channel, outcome, attempts, reason ? reason : "-");
    }
    json_decref(answer);
    return DONE;
}

static bool has_enough(const struct client *client)
{
    return client->count == 0;
}

static void show(struct client *client, const json_t *item)
{
    char *title = json_dumps(json_object_get(item, "title"), JSON_ENCODE_ANY);
    client->after = (long)json_integer_value(json_object_get(item, "cursor"));
    printf("%ld %s\n", client->after, title ? title : "null");
    free(title);
    if (client->count > 0)
        client->count--;
}

/* Shows what the inbox has after the last item that was shown, page by page. */
static int read_inbox(struct client *client, const char *user)
{
    int code = DONE;
    bool is_last = false;
    while (code == DONE && !is_last && !has_enough(client)) {
        size_t at;
        json_t *item, *page = ask(client, json_pack("{s:s, s:s, s:I, s:i}", "op", "inbox.list", "user_id", user,
                                                    "cursor", (json_int_t)client->after, "limit", PAGE), &code);
        json_array_foreach(json_object_get(page, "items"), at, item)
            if (!has_enough(client))
                show(client, item);
        is_last = !json_is_integer(json_object_get(page, "next"));
        json_decref(page);
    }
    return code;
}

/* The stream is a hint, the inbox is the truth: it is read at the start, at a gap, and after silence. */
static int follow(struct client *client, const char *user)
{
    char *topic = NULL;
    int length = asprintf(&topic, "inapp.%s", user);
    void *stream = connected(client, ZMQ_SUB, client->stream, topic, length + 1); /* the NUL byte belongs to the topic */
    int code = stream ? read_inbox(client, user) : USAGE;
    free(topic);
    while (code == DONE && !has_enough(client)) {
        json_t *item = receive_document(stream, milliseconds(client->silence));
        long cursor = (long)json_integer_value(json_object_get(item, "cursor"));
        if (item && cursor == client->after + 1)
            show(client, item);
        else if (!item || cursor > client->after)
            code = read_inbox(client, user);
        json_decref(item);
    }
    if (stream)
        zmq_close(stream);
    return code;
}

/* --- command line ------------------------------------------------------------------------------------------- */

static int usage(void)
{
    fprintf(stderr, "usage: client [OPTION VALUE]... submit USER KEY TITLE [KEY TITLE]... | send USER TITLE..."
                    " | status ID | status USER KEY | follow USER\n");
    return USAGE;
}

static int run(struct client *client, int argc, char **argv)
{
    const char *command = argc > 0 ? argv[0] : "";
    int given = argc - 1;
    if (strcmp(command, "submit") == 0 && given >= 3 && given % 2 == 1)
        return submit(client, given, argv + 1);
    if (strcmp(command, "send") == 0 && given >= 2)
        return send_off(client, given, argv + 1);
    if (strcmp(command, "status") == 0 && (given == 1 || given == 2))
        return status(client, given, argv + 1);
    if (strcmp(command, "follow") == 0 && given == 1)
        return follow(client, argv[1]);
    return usage();
}

int main(int argc, char **argv)
{
    const char *after = "0", *count = "-1"; /* no end */
    struct client client = {.submit = "tcp://127.0.0.1:7712",
                            .ingest = "tcp://127.0.0.1:7711",
                            .stream = "tcp://127.0.0.1:7713",
                            .timeout = "30",
                            .silence = "6"};
    const struct { const char *name, **value; } OPTIONS[] = {
        {"--submit", &client.submit}, {"--ingest", &client.ingest}, {"--stream", &client.stream},
        {"--timeout", &client.timeout}, {"--silence", &client.silence}, {"--after", &after}, {"--count", &count},
        {"--server-key", &client.keys[0]}, {"--public-key", &client.keys[1]}, {"--secret-key", &client.keys[2]},
    };
    const size_t known = sizeof OPTIONS / sizeof *OPTIONS;
    int at = 1;
    for (; at + 1 < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
        size_t option = 0;
        while (option < known && strcmp(OPTIONS[option].name, argv[at]) != 0)
            option++;
        if (option == known)
            return usage();
        *OPTIONS[option].value = argv[at + 1];
    }
    client.after = atol(after);
    client.count = atol(count);
    setvbuf(stdout, NULL, _IOLBF, 0);
    client.context = zmq_ctx_new();
    int code = run(&client, argc - at, argv + at);
    if (client.requests)
        zmq_close(client.requests);
    zmq_ctx_term(client.context);
    return code;
}
