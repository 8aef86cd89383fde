# frozen_string_literal: true

# A client of the dispatcher in Ruby, with ffi-rzmq (Debian: ruby ruby-ffi-rzmq).
#
#   ruby client.rb submit ada order-17-shipped "Order shipped"
#
# The command line is explained in ../README.md, the protocol in docs/protocol.md.
require "ffi-rzmq"
require "json"

REFUSED = 1 # exit codes
USAGE = 2
LATER = 3
PAGE = 500
PAUSE_MS = 100
AGAIN = %w[unavailable overloaded].freeze
USAGE_TEXT = "usage: client [OPTION VALUE]... submit USER KEY TITLE [KEY TITLE]... | send USER TITLE..." \
             " | status ID | status USER KEY | follow USER"

# What ends the program, with its exit code.
class Failure < StandardError
  attr_reader :exit_code

  def initialize(exit_code, message)
    super(message)
    @exit_code = exit_code
  end
end

# A socket that sends and receives JSON.
class Connection
  KEYS = { ZMQ::CURVE_SERVERKEY => "--server-key", ZMQ::CURVE_PUBLICKEY => "--public-key",
           ZMQ::CURVE_SECRETKEY => "--secret-key" }.freeze

  # Closed after the block.
  def self.open(type, endpoint, options, settings = {})
    connection = new(type)
    connection.connect(endpoint, options, settings)
    yield connection
  ensure
    connection&.close
  end

  def initialize(type)
    @context = ZMQ::Context.new
    @socket = @context.socket(type)
    @poller = ZMQ::Poller.new
    @poller.register_readable(@socket)
  end

  def connect(endpoint, options, settings)
    { ZMQ::LINGER => 0, ZMQ::SNDTIMEO => 0, **settings, **keys(options) }.each do |name, value|
      check(@socket.setsockopt(name, value), "option #{name}")
    end
    check(@socket.connect(endpoint), endpoint)
  end

  # Whether it could be sent.
  def write(document, *envelope)
    ZMQ::Util.resultcode_ok?(@socket.send_strings([*envelope, JSON.generate(document)]))
  end

  # The JSON object in the last part of the next message; nil if none comes in time, or what comes is none.
  def read(wait_ms)
    return unless @poller.poll([wait_ms, 0].max).positive?

    parts = []
    @socket.recv_strings(parts)
    document = JSON.parse(parts.last.force_encoding(Encoding::UTF_8))
    document if document.is_a?(Hash)
  rescue JSON::ParserError, EncodingError
    nil
  end

  def close
    @socket.close
    @context.terminate
  end

  private

  def keys(options)
    KEYS.transform_values { |option| options[option] }.compact.transform_values do |path|
      key = File.read(path).strip
      key.length == 40 ? key : raise(Failure.new(USAGE, "#{path}: no key of 40 characters"))
    end
  end

  def check(result, what)
    raise Failure.new(USAGE, "#{what}: #{ZMQ::Util.error_string}") unless ZMQ::Util.resultcode_ok?(result)
  end
end

# The commands, each of which prints what it learns and returns the exit code.
class Client
  DEFAULTS = { "--submit" => "tcp://127.0.0.1:7712", "--ingest" => "tcp://127.0.0.1:7711",
               "--stream" => "tcp://127.0.0.1:7713", "--timeout" => "30", "--silence" => "6", "--after" => "0",
               "--count" => nil, "--server-key" => nil, "--public-key" => nil, "--secret-key" => nil }.freeze

  def initialize(options)
    @options = options
    @submit = options["--submit"]
    @timeout_ms = milliseconds("--timeout")
    @silence_ms = milliseconds("--silence")
    @hint = "within #{options["--timeout"]} s; is it there, and are the keys right?"
    @seq = 0
  end

  def submit(user, *pairs)
    notifications = pairs.each_slice(2).map { |key, title| { user_id: user, idempotency_key: key, title: title } }
    receipt = asking { |requests| ask(requests, op: "submit", notifications: notifications) }
    duplicates = receipt["duplicate"].to_h { |one| [one["index"], one["mismatch"] ? "mismatch" : "duplicate"] }
    rejections = receipt["rejected"].to_h { |one| [one["index"], "#{one["error"]["code"]}: #{one["error"]["message"]}"] }
    notifications.each_with_index do |notification, index|
      word = rejections.key?(index) ? "rejected" : duplicates.fetch(index, "accepted")
      puts "#{word} #{notification[:idempotency_key]} #{rejections[index] || receipt["ids"][index]}"
    end
    rejections.empty? ? 0 : REFUSED
  end

  # Sending waits for a connection, and closing until all is sent.
  def send_off(user, *titles)
    settings = { ZMQ::IMMEDIATE => 1, ZMQ::SNDTIMEO => @timeout_ms, ZMQ::LINGER => @timeout_ms }
    Connection.open(ZMQ::PUSH, @options["--ingest"], @options, settings) do |ingest|
      sent = ingest.write(titles.map { |title| { user_id: user, title: title } })
      raise Failure.new(LATER, "no connection to #{@options["--ingest"]} #{@hint}") unless sent
    end
    puts "sent #{titles.size}"
    0
  end

  def status(*which)
    fields = which.size == 1 ? { id: which[0] } : { user_id: which[0], idempotency_key: which[1] }
    answer = asking { |requests| ask(requests, op: "status", **fields) }
    puts "id #{answer["id"]}"
    answer["deliveries"].each do |one|
      puts "#{one["channel"]} #{one["outcome"]} #{one["attempts"]} #{one["reason"] || "-"}"
    end
    0
  end

  def follow(user)
    count = @options["--count"]&.to_i
    enum_for(:each_item, user, @options["--after"].to_i).with_index(1) do |item, number|
      puts "#{item["cursor"]} #{JSON.generate(item["title"])}"
      break if number == count
    end
    0
  end

  private

  def milliseconds(option)
    (Float(@options[option]) * 1000).to_i
  end

  def now_ms
    Process.clock_gettime(Process::CLOCK_MONOTONIC, :millisecond)
  end

  def asking(&block)
    Connection.open(ZMQ::DEALER, @submit, @options, &block)
  end

  # Sends a request, and the same again after silence, `unavailable` and `overloaded`, until the timeout: what was taken
  # the first time comes back as a duplicate.
  def ask(requests, **request)
    seq = @seq += 1
    deadline = now_ms + @timeout_ms
    error = "no answer from #{@submit} #{@hint}"
    while (left = deadline - now_ms).positive?
      requests.write({ **request, seq: seq }, "") # a DEALER sends the empty delimiter itself
      answer = answer_to(requests, seq, now_ms + [@silence_ms, left].min) or next
      return answer if answer["ok"]

      code, message, retry_ms = answer["error"].values_at("code", "message", "retry_after_ms")
      error = "#{code}: #{message}"
      raise Failure.new(REFUSED, error) unless AGAIN.include?(code)

      retry_ms ||= PAUSE_MS
      break if retry_ms > deadline - now_ms

      sleep(retry_ms / 1000.0)
    end
    raise Failure.new(LATER, error)
  end

  # What belongs to an earlier request is dropped. The answer to a request that could not be read has no `seq`.
  def answer_to(requests, seq, deadline)
    loop do
      answer = requests.read(deadline - now_ms)
      return answer if answer&.key?("ok") && [nil, seq].include?(answer["seq"])
      return if now_ms >= deadline
    end
  end

  # The user's items after a cursor, each once and in order. The stream is a hint, the inbox is the truth: it is read at
  # the start, at a gap, and after silence.
  def each_item(user, after)
    topic = { ZMQ::SUBSCRIBE => "inapp.#{user}\0" } # the NUL byte belongs to the topic
    Connection.open(ZMQ::SUB, @options["--stream"], @options, topic) do |stream|
      asking do |requests|
        show = lambda do |item|
          after = item["cursor"]
          yield item
        end
        each_in_inbox(requests, user, after, &show)
        loop do
          item = stream.read(@silence_ms)
          if item.nil? || item["cursor"] > after + 1
            each_in_inbox(requests, user, after, &show)
          elsif item["cursor"] == after + 1
            show.call(item)
          end
        end
      end
    end
  end

  # Page by page.
  def each_in_inbox(requests, user, cursor, &block)
    while cursor
      page = ask(requests, op: "inbox.list", user_id: user, cursor: cursor, limit: PAGE)
      page["items"].each(&block)
      cursor = page["next"]
    end
  end
end

# The name of the method that a command calls, and how many arguments it takes.
def command(name, given)
  case name
  when "submit" then :submit if given >= 3 && given.odd?
  when "send" then :send_off if given >= 2
  when "status" then :status if [1, 2].include?(given)
  when "follow" then :follow if given == 1
  end
end

def main(arguments)
  options = Client::DEFAULTS.dup
  while arguments.first&.start_with?("--")
    name, value = arguments.shift(2)
    return warn(USAGE_TEXT) || USAGE unless value && options.key?(name)

    options[name] = value
  end
  name, *given = arguments
  method = command(name, given.size)
  method ? Client.new(options).public_send(method, *given) : warn(USAGE_TEXT) || USAGE
rescue Failure => e
  warn "error: #{e.message}"
  e.exit_code
rescue SystemCallError, ArgumentError, JSON::GeneratorError => e # no such file, no number, no UTF-8
  warn "error: #{e.message}"
  USAGE
end

$stdout.sync = true
exit main(ARGV)
