// A client of the dispatcher in C++17, with cppzmq and nlohmann's JSON (Debian: libzmq3-dev, cppzmq-dev,
// nlohmann-json3-dev).
//
//   c++ -std=c++17 -O2 -Wall -Wextra -o client client.cpp -lzmq
//   ./client submit ada order-17-shipped "Order shipped"
//
// The command line is explained in ../README.md, the protocol in docs/protocol.md.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>
#include <zmq.hpp>

using json = nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Strings = std::vector<std::string>;

namespace {

constexpr int DONE = 0, REFUSED = 1, USAGE = 2, LATER = 3; // exit codes
constexpr int PAGE = 500;
constexpr milliseconds PAUSE{100};

const char* const USAGE_TEXT = "usage: client [OPTION VALUE]... submit USER KEY TITLE [KEY TITLE]... | send USER TITLE..."
                               " | status ID | status USER KEY | follow USER";

/// What ends the program, with its exit code.
class Failure : public std::runtime_error {
public:
    Failure(int exit_code, const std::string& message) : std::runtime_error(message), exit_code_(exit_code) {}
    int exit_code() const { return exit_code_; }

private:
    int exit_code_;
};

struct Options {
    std::map<std::string, std::string> values{
        {"--submit", "tcp://127.0.0.1:7712"}, {"--ingest", "tcp://127.0.0.1:7711"}, {"--stream", "tcp://127.0.0.1:7713"},
        {"--timeout", "30"}, {"--silence", "6"}, {"--after", "0"}, {"--count", ""},
        {"--server-key", ""}, {"--public-key", ""}, {"--secret-key", ""},
    };

    const std::string& operator[](const std::string& name) const { return values.at(name); }
    milliseconds duration(const std::string& name) const { return milliseconds(std::llround(std::stod(values.at(name)) * 1000)); }
};

milliseconds until(Clock::time_point time)
{
    return std::max(milliseconds::zero(), std::chrono::duration_cast<milliseconds>(time - Clock::now()));
}

std::string key(const std::string& path)
{
    std::ifstream file(path);
    std::string text;
    if (!(file >> text) || text.size() != 40)
        throw Failure(USAGE, path + ": no key of 40 characters");
    return text;
}

void set_keys(zmq::socket_t& socket, const Options& options)
{
    if (options["--server-key"].empty())
        return;
    socket.set(zmq::sockopt::curve_serverkey, key(options["--server-key"]));
    socket.set(zmq::sockopt::curve_publickey, key(options["--public-key"]));
    socket.set(zmq::sockopt::curve_secretkey, key(options["--secret-key"]));
}

void connect(zmq::socket_t& socket, const std::string& endpoint)
{
    try {
        socket.connect(endpoint);
    } catch (const zmq::error_t& error) {
        throw Failure(USAGE, endpoint + ": " + error.what());
    }
}

/// The JSON object in the last part of the next message; nothing if none comes in time, or what comes is none.
std::optional<json> receive(zmq::socket_t& socket, milliseconds wait)
{
    socket.set(zmq::sockopt::rcvtimeo, static_cast<int>(wait.count()));
    zmq::message_t part;
    do {
        if (!socket.recv(part))
            return std::nullopt;
    } while (part.more());
    json document = json::parse(part.to_string_view(), nullptr, false);
    return document.is_object() ? std::optional(document) : std::nullopt;
}

std::string described(const json& error)
{
    return error.at("code").get<std::string>() + ": " + error.at("message").get<std::string>();
}

/// Requests with answers, on one DEALER.
class Requests {
public:
    Requests(zmq::context_t& context, const Options& options)
        : socket_(context, zmq::socket_type::dealer), endpoint_(options["--submit"]), timeout_(options.duration("--timeout")),
          silence_(options.duration("--silence")),
          no_answer_("no answer from " + endpoint_ + " within " + options["--timeout"] + " s; is it there, and are the keys right?")
    {
        socket_.set(zmq::sockopt::linger, 0);
        set_keys(socket_, options);
        connect(socket_, endpoint_);
    }

    /// Sends a request, and the same again after silence, `unavailable` and `overloaded`, until the timeout: what was
    /// taken the first time comes back as a duplicate.
    json ask(json request)
    {
        const auto deadline = Clock::now() + timeout_;
        std::string error = no_answer_;
        request["seq"] = ++seq_;
        const std::string body = request.dump();
        while (Clock::now() < deadline) {
            send(body);
            const auto answer = receive_answer(std::min(deadline, Clock::now() + silence_));
            if (!answer)
                continue;
            if (answer->at("ok").get<bool>())
                return *answer;
            const json& refusal = answer->at("error");
            const std::string code = refusal.at("code");
            error = described(refusal);
            if (code != "unavailable" && code != "overloaded")
                throw Failure(REFUSED, error);
            const milliseconds retry_after(refusal.value("retry_after_ms", PAUSE.count()));
            if (retry_after > until(deadline))
                break;
            std::this_thread::sleep_for(retry_after);
        }
        throw Failure(LATER, error);
    }

private:
    /// Where it cannot be sent there will be no answer either.
    void send(const std::string& body)
    {
        const auto now = zmq::send_flags::dontwait;
        if (socket_.send(zmq::message_t(), now | zmq::send_flags::sndmore)) // a DEALER sends the empty delimiter itself
            socket_.send(zmq::buffer(body), now);
    }

    /// What belongs to an earlier request is dropped. The answer to a request that could not be read has no `seq`.
    std::optional<json> receive_answer(Clock::time_point deadline)
    {
        do {
            auto answer = receive(socket_, until(deadline));
            if (answer && answer->contains("ok") && answer->value("seq", seq_) == seq_)
                return answer;
        } while (Clock::now() < deadline);
        return std::nullopt;
    }

    zmq::socket_t socket_;
    std::string endpoint_;
    milliseconds timeout_, silence_;
    std::string no_answer_;
    int seq_ = 0;
};

int submit(zmq::context_t& context, const Options& options, const Strings& given)
{
    json notifications = json::array();
    for (std::size_t at = 1; at + 1 < given.size(); at += 2)
        notifications.push_back({{"user_id", given[0]}, {"idempotency_key", given[at]}, {"title", given[at + 1]}});
    const json receipt = Requests(context, options).ask({{"op", "submit"}, {"notifications", notifications}});

    std::map<std::size_t, std::string> duplicates, rejections;
    for (const json& one : receipt.at("duplicate"))
        duplicates[one.at("index")] = one.at("mismatch").get<bool>() ? "mismatch" : "duplicate";
    for (const json& one : receipt.at("rejected"))
        rejections[one.at("index")] = described(one.at("error"));
    for (std::size_t index = 0; index < notifications.size(); index++) {
        const std::string& idempotency_key = given[2 * index + 1];
        if (const auto rejection = rejections.find(index); rejection != rejections.end()) {
            std::cout << "rejected " << idempotency_key << " " << rejection->second << std::endl;
            continue;
        }
        const auto duplicate = duplicates.find(index);
        std::cout << (duplicate == duplicates.end() ? "accepted" : duplicate->second) << " " << idempotency_key << " "
                  << receipt.at("ids").at(index).get<std::string>() << std::endl;
    }
    return rejections.empty() ? DONE : REFUSED;
}

int send_off(zmq::context_t& context, const Options& options, const Strings& given)
{
    json notifications = json::array();
    std::for_each(given.begin() + 1, given.end(),
                  [&](const std::string& title) { notifications.push_back({{"user_id", given[0]}, {"title", title}}); });
    const int timeout_ms = static_cast<int>(options.duration("--timeout").count());
    zmq::socket_t socket(context, zmq::socket_type::push);
    socket.set(zmq::sockopt::immediate, true); // sending waits for a connection,
    socket.set(zmq::sockopt::sndtimeo, timeout_ms);
    socket.set(zmq::sockopt::linger, timeout_ms); // and ending until all is sent
    set_keys(socket, options);
    connect(socket, options["--ingest"]);
    if (!socket.send(zmq::buffer(notifications.dump())))
        throw Failure(LATER, "no connection to " + options["--ingest"] + " within " + options["--timeout"]
                                 + " s; is it there, and are the keys right?");
    std::cout << "sent " << notifications.size() << std::endl;
    return DONE;
}

int status(zmq::context_t& context, const Options& options, const Strings& given)
{
    const json request = given.size() == 1
        ? json{{"op", "status"}, {"id", given[0]}}
        : json{{"op", "status"}, {"user_id", given[0]}, {"idempotency_key", given[1]}};
    const json answer = Requests(context, options).ask(request);
    std::cout << "id " << answer.at("id").get<std::string>() << std::endl;
    for (const json& one : answer.at("deliveries"))
        std::cout << one.at("channel").get<std::string>() << " " << one.at("outcome").get<std::string>() << " "
                  << one.at("attempts") << " " << (one.at("reason").is_null() ? "-" : one.at("reason").get<std::string>())
                  << std::endl;
    return DONE;
}

/// The stream is a hint, the inbox is the truth: it is read at the start, at a gap, and after silence.
int follow(zmq::context_t& context, const Options& options, const Strings& given)
{
    using namespace std::string_literals;
    const std::string& user = given[0];
    long long after = std::stoll(options["--after"]);
    long long left = options["--count"].empty() ? std::numeric_limits<long long>::max() : std::stoll(options["--count"]);

    zmq::socket_t stream(context, zmq::socket_type::sub);
    stream.set(zmq::sockopt::linger, 0);
    stream.set(zmq::sockopt::subscribe, "inapp." + user + "\0"s); // the NUL byte belongs to the topic
    set_keys(stream, options);
    connect(stream, options["--stream"]);
    Requests requests(context, options);

    const auto show = [&](const json& item) {
        after = item.at("cursor");
        std::cout << after << " " << item.at("title") << std::endl;
        left--;
    };
    const auto read_inbox = [&] { // page by page
        for (json cursor = after; !cursor.is_null() && left > 0;) {
            const json page = requests.ask({{"op", "inbox.list"}, {"user_id", user}, {"cursor", cursor}, {"limit", PAGE}});
            for (const json& item : page.at("items"))
                if (left > 0)
                    show(item);
            cursor = page.at("next");
        }
    };

    read_inbox();
    while (left > 0) {
        const auto item = receive(stream, options.duration("--silence"));
        if (!item || item->at("cursor") > after + 1)
            read_inbox();
        else if (item->at("cursor") == after + 1)
            show(*item);
    }
    return DONE;
}

int run(Strings arguments)
{
    Options options;
    auto next = arguments.begin();
    for (; arguments.end() - next >= 2 && next->rfind("--", 0) == 0 && options.values.count(*next); next += 2)
        options.values[*next] = next[1];
    const std::string command = next == arguments.end() ? "" : *next++;
    const Strings given(next, arguments.end());
    const auto count = given.size();
    zmq::context_t context;
    if (command == "submit" && count >= 3 && count % 2 == 1)
        return submit(context, options, given);
    if (command == "send" && count >= 2)
        return send_off(context, options, given);
    if (command == "status" && (count == 1 || count == 2))
        return status(context, options, given);
    if (command == "follow" && count == 1)
        return follow(context, options, given);
    std::cerr << USAGE_TEXT << std::endl;
    return USAGE;
}

} // namespace

int main(int argc, char** argv)
{
    try {
        return run(Strings(argv + 1, argv + argc));
    } catch (const Failure& failure) {
        std::cerr << "error: " << failure.what() << std::endl;
        return failure.exit_code();
    } catch (const std::exception& error) { // a number that is none, text that is not UTF-8
        std::cerr << "error: " << error.what() << std::endl;
        return USAGE;
    }
}
