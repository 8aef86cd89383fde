/* Submits one notification in JSON and one in MessagePack, and prints both receipts.
 *
 *   cc -O2 -Wall -Wextra -o submit submit.c -lzmq
 *   ./submit [tcp://127.0.0.1:7712]
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <zmq.h>

static const char JSON[] =
    "{\"op\": \"submit\", \"notifications\": [{\"user_id\": \"user-1\", \"title\": \"Hello from C\","
    " \"idempotency_key\": \"c-json\"}]}";

/* The same by hand: \x8N is a map of N pairs, \x9N a list of N, \xaN a text of N bytes. */
static const char MSGPACK[] =
    "\x82" "\xa2" "op" "\xa6" "submit" "\xad" "notifications" "\x91"
        "\x83" "\xa7" "user_id" "\xa6" "user-1"
               "\xa5" "title" "\xac" "Hello from C"
               "\xaf" "idempotency_key" "\xa9" "c-msgpack";

static const char OK_JSON[] = "\"ok\":true", NONE_JSON[] = "\"rejected\":[]";
static const char OK_MSGPACK[] = "\xa2" "ok" "\xc3", NONE_MSGPACK[] = "\xa8" "rejected" "\x90";

/* Whether the receipt says that the request was understood and nothing of it was rejected. */
static int submit(void *socket, const char *request, size_t size, const char *ok, const char *none)
{
    unsigned char receipt[4096];
    zmq_send(socket, "", 0, ZMQ_SNDMORE); /* a DEALER sends the empty delimiter itself, */
    zmq_send(socket, request, size, 0);
    int length = zmq_recv(socket, receipt, sizeof receipt, 0); /* and receives one */
    length = length < 0 ? length : zmq_recv(socket, receipt, sizeof receipt, 0);
    if (length < 0) {
        fprintf(stderr, "no receipt: %s\n", zmq_strerror(zmq_errno()));
        return 0;
    }
    length = length < (int)sizeof receipt ? length : (int)sizeof receipt;
    for (int at = 0; at < length; at++)
        printf(receipt[at] >= ' ' && receipt[at] <= '~' ? "%c" : "\\x%02x", receipt[at]);
    printf("\n");
    return memmem(receipt, length, ok, strlen(ok)) && memmem(receipt, length, none, strlen(none));
}

int main(int argc, char **argv)
{
    const char *endpoint = argc > 1 ? argv[1] : "tcp://127.0.0.1:7712";
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_DEALER);
    int timeout_ms = 10000, linger_ms = 0;
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    int connected = zmq_connect(socket, endpoint) == 0;
    if (!connected)
        fprintf(stderr, "%s: %s\n", endpoint, zmq_strerror(zmq_errno()));
    int good = connected && submit(socket, JSON, sizeof JSON - 1, OK_JSON, NONE_JSON)
        && submit(socket, MSGPACK, sizeof MSGPACK - 1, OK_MSGPACK, NONE_MSGPACK);
    zmq_close(socket);
    zmq_ctx_term(context);
    return good ? 0 : 1;
}
