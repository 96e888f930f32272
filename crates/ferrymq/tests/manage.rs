//! `ferrymq queue|exchange|binding|policy|vhost` and the API behind them, as users run them, against a broker.
//!
//! Deliberately absent: what a policy does to messages; the queues' own tests and the AMQP door's show that.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value as Json, json};

/// A broker that ends with the test.
struct Broker {
    process: Child,
    address: String,
}

impl Broker {
    fn start(data_dir: &std::path::Path) -> Broker {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrymq"));
        command.arg("serve").arg("--data-dir").arg(data_dir);
        for listener in ["--kafka-listen", "--amqp-listen", "--http-listen"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("/api") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
        }
        let address = line.split("listen=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        // Whatever else it says is read, so that it is never stuck saying it.
        ferrymq_runtime::spawn_thread("stderr", move || {
            let _ = std::io::copy(&mut log, &mut std::io::sink());
        })
        .unwrap();
        Broker { process, address }
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrymq"));
        command.args(line.split(' ')).env("FERRYMQ_API", &self.address).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs a command that succeeds; what it said.
    #[track_caller]
    fn does(&self, line: &str) -> String {
        let output = self.run(line);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
        said
    }

    /// Runs a command that fails; what it said.
    #[track_caller]
    fn fails(&self, line: &str) -> String {
        let output = self.run(line);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        said
    }

    #[track_caller]
    fn json(&self, line: &str) -> Json {
        let output = self.run(&format!("{line} --json"));
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A raw request; the whole answer.
    fn asks(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(stream, "{head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// As a tool of RabbitMQ asks; status and body.
    fn tool(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
             content-type: application/json",
            self.address
        );
        let answer = self.asks(&head, body);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(list: &Json, column: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|row| row[column].as_str().unwrap().to_owned()).collect()
}

#[test]
fn everything_is_made_listed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    assert!(broker.does("vhost create team/a --description ours --tag x").contains("created vhost team/a"));
    assert!(broker.does("vhost create team/a").contains("updated vhost team/a"));
    broker.does("vhost create team/a --default-queue-type quorum");
    let list = broker.json("vhost list");
    assert_eq!(names(&list, "default_queue_type"), ["classic", "quorum"]);
    broker.does("queue create plain -V team/a");
    assert_eq!(names(&broker.json("queue list -V team/a"), "type"), ["quorum"]);
    broker.does("queue delete plain -V team/a");
    assert_eq!(names(&broker.json("vhost list"), "name"), ["/", "team/a"]);
    let at = "-V team/a";
    broker.does(&format!("exchange create events --type topic {at}"));
    broker.does(&format!("queue create orders/1 --type quorum -a x-delivery-limit=5 {at}"));
    assert!(broker.does(&format!("queue create jobs {at}")).contains("created"));
    assert!(broker.does(&format!("queue create jobs {at}")).contains("is there already"));
    broker.does(&format!("binding create events orders/1 --routing-key order.# {at}"));
    broker.does(&format!("binding create events orders/1 -k order.# -a n=5 {at}"));
    broker.does(&format!("binding create amq.fanout events --to-exchange {at}"));
    let queues = broker.json(&format!("queue list {at}"));
    assert_eq!(names(&queues, "name"), ["jobs", "orders/1"]);
    assert_eq!(queues[1]["type"], "quorum");
    assert_eq!(queues[1]["arguments"], json!({ "x-queue-type": "quorum", "x-delivery-limit": 5 }));
    assert_eq!((&queues[1]["messages"], &queues[1]["durable"]), (&json!(0), &json!(true)));
    assert_eq!(broker.json(&format!("exchange list {at}")).as_array().unwrap().len(), 8);
    let bindings = broker.json(&format!("binding list --source events {at}"));
    assert_eq!(names(&bindings, "routing_key"), ["order.#", "order.#"]);
    // The one with the argument goes, the other one stays.
    broker.does(&format!("binding delete events orders/1 -k order.# -a n=5 {at}"));
    let bindings = broker.json(&format!("binding list --source events {at}"));
    assert_eq!(bindings.as_array().unwrap().len(), 1);
    assert_eq!(bindings[0]["arguments"], json!({}));
    assert!(broker.does(&format!("queue purge orders/1 {at}")).contains("purged"));
    broker.does(&format!("queue delete orders/1 --if-empty --if-unused {at}"));
    broker.does(&format!("exchange delete events {at}"));
    let listed = broker.run(&format!("queue list {at}"));
    assert_eq!(text(&listed.stdout).lines().count(), 2, "{}", text(&listed.stdout));
    assert_eq!(broker.json("queue list"), json!([]));
    broker.does("vhost delete team/a");
    assert_eq!(names(&broker.json("vhost list"), "name"), ["/"]);
}

#[test]
fn policies_are_set_shown_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    broker.does("queue create orders");
    let set = broker.does("policy set ttl ^(?!amq\\.)ord message-ttl=60000 dead-letter-exchange=dead");
    assert!(set.contains("policy ttl in vhost / set"), "{set}");
    assert!(broker.does("policy set ttl ^ord message-ttl=50000 --priority -2").contains("changed"));
    broker.does("policy set caps .* max-length=10 --operator --apply-to queues");
    let all = broker.json("policy list");
    let expected = json!([{
        "vhost": "/", "name": "ttl", "pattern": "^ord", "apply-to": "all", "priority": -2,
        "definition": { "message-ttl": 50000 },
    }]);
    assert_eq!(all, expected);
    broker.kill();
    let broker = Broker::start(dir.path());
    assert_eq!(broker.json("policy list"), expected);
    let queue = broker.json("queue describe orders");
    assert_eq!((&queue["policy"], &queue["operator_policy"]), (&json!("ttl"), &json!("caps")));
    assert_eq!(queue["effective_policy_definition"], json!({ "max-length": 10, "message-ttl": 50000 }));
    broker.does("policy clear caps --operator");
    broker.does("policy set json ^x --definition {\"expires\":1000}");
    broker.does("policy clear ttl");
    let queue = broker.json("queue describe orders");
    assert_eq!((&queue["policy"], &queue["operator_policy"]), (&Json::Null, &Json::Null));
}

#[test]
fn errors_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    broker.does("queue create q");
    for (line, said) in [
        ("queue delete nothing", "there is no queue nothing in vhost /"),
        ("queue delete nothing", "help: `ferrymq queue list`"),
        ("queue list -V nowhere", "help: `ferrymq vhost list`"),
        ("vhost delete nowhere", "there is no vhost nowhere"),
        ("queue create q -a x-max-length=5", "inequivalent arg 'x-max-length'"),
        ("queue create q -a x-max-length=5", "help: it is there already and differs"),
        ("queue create amq.q", "queue name 'amq.q' contains reserved prefix 'amq.*'"),
        ("queue create p -a x-max-length=many", "invalid arg 'x-max-length'"),
        ("exchange create e --type round", "unknown exchange type 'round'"),
        ("exchange delete amq.direct", "exchange name 'amq.direct' contains reserved prefix"),
        ("binding create amq.direct nothing", "no queue 'nothing' in vhost '/'"),
        ("binding delete amq.direct q -k no", "there is no binding amq.direct -> q"),
        ("policy clear nothing", "help: `ferrymq policy list`"),
        ("policy set p ^q max-length=-1", "-1 is not a valid maximum length"),
        ("policy set p ^q max-lenght=1", "[{<<\"max-lenght\">>,1}] are not recognised policy settings"),
        ("policy set p ^q dead-letter-exchange=x --operator", "not recognised policy settings"),
        ("policy set p ^q( max-length=1", "should be regular expression but is invalid"),
        ("policy set p ^q max-length=1 --apply-to topics", "apply-to 'topics' unrecognised"),
        ("policy set p ^q", "no policy provided"),
        ("policy set p ^q delayed-retry-type=all", "delayed-retry-min is required when"),
        ("queue list --api 127.0.0.1:1", "cannot connect to 127.0.0.1:1"),
    ] {
        let stderr = broker.fails(line);
        assert!(stderr.contains(said), "{line}: {stderr}");
    }
    let usage = broker.run("policy set p ^q max-length");
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage.stderr));
    let usage = broker.run("queue create q -a a=1 -a a=2");
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage.stderr));
}

#[test]
fn tools_of_rabbitmq_are_answered_in_its_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let none = "{\"error\":\"Object Not Found\",\"reason\":\"Not Found\"}";
    for (method, path, body, status, answer) in [
        ("PUT", "/api/queues/%2F/a%2Fb", "{\"durable\":true}", 201, ""),
        ("PUT", "/api/queues/%2F/a%2Fb", "{\"durable\":true}", 204, ""),
        ("GET", "/api/queues/%2F/a%2Fb", "", 200, "\"name\":\"a/b\""),
        ("GET", "/api/queues/%2F/no", "", 404, none),
        ("DELETE", "/api/queues/%2F/no", "", 404, none),
        ("GET", "/api/queues/no", "", 404, none),
        ("POST", "/api/bindings/%2F/e/amq.topic/q/a%2Fb", "{\"routing_key\":\"k.~\"}", 201, ""),
        ("GET", "/api/bindings/%2F/e/amq.topic/q/a%2Fb/k.%257E", "", 200, "\"routing_key\":\"k.~\""),
        ("GET", "/api/queues/%2F/a%2Fb/bindings", "", 200, "\"source\":\"\""),
        ("GET", "/api/exchanges/%2F/amq.topic/bindings/source", "", 200, "\"destination\":\"a/b\""),
        ("DELETE", "/api/bindings/%2F/e/amq.topic/q/a%2Fb/k.%257E", "", 204, ""),
        ("DELETE", "/api/bindings/%2F/e/amq.topic/q/a%2Fb/k.%257E", "", 404, none),
        ("GET", "/api/exchanges/%2F/amq.default", "", 200, "\"name\":\"\""),
        ("PUT", "/api/policies/%2F/p", "{\"pattern\":\"a\",\"definition\":{\"max-length\":5}}", 201, ""),
        ("PUT", "/api/policies/%2F/p", "{\"pattern\":\"a\"}", 400, "[{key_missing,definition}]"),
        ("GET", "/api/policies", "", 200, "\"apply-to\":\"all\""),
        ("GET", "/api/operator-policies/%2F", "", 200, "[]"),
        ("DELETE", "/api/policies/%2F/p", "", 204, ""),
        ("PUT", "/api/queues/%2F/x", "[]", 400, "not_json"),
        ("PUT", "/api/queues/%2F/x", "{\"node\":\"rabbit@there\"}", 400, "node is not served"),
        ("GET", "/api/queues?page=1", "", 400, "the parameter page is not served"),
        ("GET", "/api/bindings?columns=source", "", 400, "the parameter columns is not served"),
        ("GET", "/api/policies/%2F/p?x", "", 400, "the parameter x is not served"),
        ("GET", "/api/queues/%2F/x?if-unused=true", "", 400, "the parameter if-unused is not served"),
        ("DELETE", "/api/queues/%2F/x?if_unused=true", "", 400, "the parameter if_unused is not served"),
        (
            "DELETE",
            "/api/queues/%2F/x/contents?if-empty=true",
            "",
            400,
            "the parameter if-empty is not served",
        ),
        ("DELETE", "/api/exchanges/%2F/x?if-unused=1", "", 400, "the parameter if-unused is true or false"),
        ("GET", "/api/connections", "", 404, ""),
        ("PUT", "/api/vhosts/v", "{\"default_queue_type\":\"\"}", 400, "must not be an empty string"),
        ("PUT", "/api/vhosts/v", "{\"default_queue_type\":\"odd\"}", 400, "odd is not a valid queue type"),
        ("GET", "/api/whoami", "", 200, "\"name\":\"guest\""),
        ("GET", "/api/overview", "", 200, "\"rabbitmq_version\":\"4.3.0\""),
    ] {
        let (found, said) = broker.tool(method, path, body);
        assert!(found == status && said.contains(answer), "{method} {path}: {found} {said}");
    }
}

#[test]
fn pages_and_strangers_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(dir.path());
    let put = "PUT /api/vhosts/evil HTTP/1.1";
    let (host, guest, json) = (
        format!("\r\nhost: {}", broker.address),
        "\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=",
        "\r\ncontent-type: application/json",
    );
    for (head, status) in [
        (format!("{put}{host}{json}"), 401),
        (format!("{put}{host}{guest}"), 415),
        (format!("{put}{host}{guest}\r\ncontent-type: text/plain"), 415),
        (format!("{put}\r\nhost: rebound.example{guest}{json}"), 403),
        (format!("{put}{host}{guest}{json}\r\norigin: http://page.example"), 403),
        (format!("{put}{host}{guest}{json}\r\nsec-fetch-site: cross-site"), 403),
    ] {
        let answer = broker.asks(&head, "{}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    let options = broker.asks(&format!("OPTIONS /api/vhosts/evil HTTP/1.1{host}{guest}"), "");
    assert!(!options.to_lowercase().contains("access-control-allow"), "{options}");
    let large = broker.asks(&format!("{put}{host}{guest}{json}"), &"x".repeat(300_000));
    assert!(large.starts_with("HTTP/1.1 400 "), "{large}");
    assert_eq!(names(&broker.json("vhost list"), "name"), ["/"]);
    // Metrics and health ask for nothing.
    let metrics = broker.asks("GET /metrics HTTP/1.1\r\nhost: x", "");
    for (name, value) in [("rabbitmq_queues", 0), ("rabbitmq_connections", 0)] {
        assert!(metrics.contains(&format!("\n{name} {value}\n")), "{metrics}");
    }
    broker.does("queue create q");
    let metrics = broker.asks("GET /metrics HTTP/1.1\r\nhost: x", "");
    assert!(metrics.contains("\nrabbitmq_queues 1\n"), "{metrics}");
    let letters = "rabbitmq_global_messages_dead_lettered";
    for line in [
        "rabbitmq_queues_declared_total 1",
        "rabbitmq_queues_created_total 1",
        "rabbitmq_queues_deleted_total 0",
        "rabbitmq_alarms_free_disk_space_watermark 0",
        "rabbitmq_global_publishers{protocol=\"amqp091\"} 0",
        "rabbitmq_global_messages_routed_total{protocol=\"amqp091\"} 0",
        &format!(
            "{letters}_expired_total{{queue_type=\"rabbit_classic_queue\",dead_letter_strategy=\"disabled\"}} 0"
        ),
        &format!(
            "{letters}_confirmed_total{{queue_type=\"rabbit_quorum_queue\",dead_letter_strategy=\"at_least_once\"}} 0"
        ),
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line}: {metrics}");
    }
    assert_eq!(metrics.matches(&format!("\n{letters}_maxlen_total{{")).count(), 4, "as RabbitMQ has them");
    assert!(
        metrics.contains("rabbitmq_global_messages_received_total{protocol=\"amqp091\"} 0\n"),
        "{metrics}"
    );
}

#[test]
fn completions_know_the_commands() {
    let script = |shell: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferrymq"));
        text(&command.args(["completions", shell]).output().unwrap().stdout)
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = script(shell);
        for word in ["queue", "exchange", "binding", "policy", "vhost", "purge", "operator"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
