//! The topology: what may be declared, bound and deleted, and what goes with what.

use std::sync::Arc;

use ferrymq_broker::queues::{
    Arguments, BindingSpec, Credit, DeleteIf, Entity, ExchangeKind, ExchangeSpec, Property, Publish,
    QueueError, QueueSpec, QueueType, Routed, Unfit, Value, Width, Wrong, deliveries,
};

use crate::rig::{Rig, VHOST, arguments, binding, body, durable, exchange, message};

#[tokio::test(start_paused = true)]
async fn a_declaration_that_differs_says_in_what() {
    #[track_caller]
    fn check(error: QueueError, property: &str, current: Property, asked: Property) {
        let QueueError::Inequivalent { property: found, current: is, asked: was, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((found.as_str(), *is, *was), (property, current, asked));
    }
    let rig = Rig::new().await;
    let version = |value| arguments(&[("x-queue-version", value), ("x-unheard-of", Value::Void)]);
    let spec = QueueSpec { arguments: version(Value::Int(2, Width::I32)), ..durable("q") };
    assert!(rig.declare(spec.clone()).await.created);
    let same =
        QueueSpec { arguments: arguments(&[("x-queue-version", Value::Int(2, Width::I64))]), ..durable("q") };
    assert!(!rig.declare(same).await.created);
    let declare = |spec| rig.queues.declare_queue(&rig.session, VHOST, spec);
    let differs = declare(QueueSpec { durable: false, ..spec.clone() }).await.unwrap_err();
    check(differs, "durable", Property::Flag(true), Property::Flag(false));
    let differs = declare(QueueSpec { auto_delete: true, ..spec.clone() }).await.unwrap_err();
    check(differs, "auto_delete", Property::Flag(false), Property::Flag(true));
    let differs = declare(durable("q")).await.unwrap_err();
    let current = Property::Argument(Some(Value::Int(2, Width::I32)));
    check(differs, "x-queue-version", current, Property::Argument(None));
    rig.exchange("e", ExchangeKind::Topic).await;
    let other = rig.queues.declare_exchange(&rig.session, VHOST, exchange("e", ExchangeKind::Direct)).await;
    let (is, asked) = (Property::Kind(ExchangeKind::Topic), Property::Kind(ExchangeKind::Direct));
    check(other.unwrap_err(), "type", is, asked);
    let internal = ExchangeSpec { internal: true, ..exchange("e", ExchangeKind::Topic) };
    let other = rig.queues.declare_exchange(&rig.session, VHOST, internal).await;
    check(other.unwrap_err(), "internal", Property::Flag(false), Property::Flag(true));
}

#[tokio::test(start_paused = true)]
async fn names_and_arguments_are_checked() {
    let rig = Rig::new().await;
    let declare = |spec| rig.queues.declare_queue(&rig.session, VHOST, spec);
    let reserved = declare(durable("amq.q")).await.unwrap_err();
    assert!(matches!(reserved, QueueError::ReservedName { entity: Entity::Queue, .. }), "{reserved}");
    let long = declare(durable(&"x".repeat(256))).await.unwrap_err();
    assert!(matches!(long, QueueError::BadName { .. }), "{long}");
    for unserved in ["x-message-deduplication"] {
        let value = Value::Int(1, Width::I32);
        let spec = QueueSpec { arguments: arguments(&[(unserved, value)]), ..durable("q") };
        let error = declare(spec).await.unwrap_err();
        assert!(
            matches!(&error, QueueError::Unsupported { argument, .. } if argument == unserved),
            "{error}"
        );
    }
    let of_type =
        |kind, spec| QueueSpec { arguments: arguments(&[("x-queue-type", Value::text(kind))]), ..spec };
    for (spec, wrong) in [
        (QueueSpec { durable: false, ..durable("q") }, "non-durable"),
        (QueueSpec { auto_delete: true, ..durable("q") }, "auto-delete"),
        (QueueSpec { exclusive: true, durable: false, ..durable("q") }, "exclusive-owner"),
    ] {
        let error = declare(of_type("quorum", spec)).await.unwrap_err();
        assert!(
            matches!(&error, QueueError::WrongProperty { property, .. } if *property == wrong),
            "{error}"
        );
    }
    for (name, value, expected) in [
        ("x-queue-type", Value::text("nonsense"), Wrong::QueueType),
        ("x-message-ttl", Value::text("5"), Wrong::NotAnInteger),
        ("x-expires", Value::Int(0, Width::I32), Wrong::Zero),
        ("x-delivery-limit", Value::Int(5, Width::I32), Wrong::NotOf(QueueType::Classic)),
    ] {
        let spec = QueueSpec { arguments: arguments(&[(name, value)]), ..durable("q") };
        let error = declare(spec).await.unwrap_err();
        assert!(matches!(&error, QueueError::WrongArgument { wrong, .. } if *wrong == expected), "{error}");
    }
    let stream = arguments(&[("x-queue-type", Value::text("stream"))]);
    let error = declare(QueueSpec { arguments: stream, ..durable("q") }).await.unwrap_err();
    assert!(matches!(&error, QueueError::Unsupported { .. }), "{error}");
    let missing = rig.queues.queue(&rig.session, VHOST, "q").await.unwrap_err();
    assert!(matches!(missing, QueueError::NotFound { entity: Entity::Queue, .. }), "{missing}");
    let missing = rig.queues.queue(&rig.session, "elsewhere", "q").await.unwrap_err();
    assert!(matches!(missing, QueueError::NoVhost(_)), "{missing}");
    let default = rig.queues.declare_exchange(&rig.session, VHOST, exchange("", ExchangeKind::Direct)).await;
    assert!(matches!(default, Err(QueueError::DefaultExchange)));
    let predeclared = exchange("amq.topic", ExchangeKind::Topic);
    assert!(!rig.queues.declare_exchange(&rig.session, VHOST, predeclared).await.unwrap());
    let reserved = rig.queues.delete_exchange(&rig.session, VHOST, "amq.topic", DeleteIf::default()).await;
    assert!(matches!(reserved, Err(QueueError::ReservedName { entity: Entity::Exchange, .. })));
    let named = rig.declare(QueueSpec { durable: false, ..durable("") }).await.queue;
    assert!(named.name().starts_with("amq.gen-") && named.name().len() == 30, "{named:?}");
}

#[tokio::test(start_paused = true)]
async fn bindings_route_and_go() {
    let rig = Rig::new().await;
    for queue in ["a", "b"] {
        rig.queue(queue).await;
    }
    rig.exchange("topics", ExchangeKind::Topic).await;
    let before = rig.queues.generation();
    rig.bind("topics", "a", "x.*").await;
    rig.bind("topics", "a", "x.#").await;
    rig.bind("topics", "b", "x.y").await;
    rig.bind("topics", "b", "x.y").await;
    assert!(rig.queues.generation() > before);
    assert_eq!(rig.routed("topics", "x.y"), ["a", "b"]);
    assert_eq!(rig.routed("topics", "x"), ["a"]);
    assert!(rig.route("topics", "y").is_empty());
    assert_eq!(rig.routed("", "a"), ["a"]);
    rig.queues.unbind(&rig.session, VHOST, binding("topics", "b", "x.y")).await.unwrap();
    assert_eq!(rig.routed("topics", "x.y"), ["a"], "bound once however often it was asked");
    for (source, queue) in [("nowhere", "a"), ("topics", "nobody"), ("topics", "b")] {
        rig.queues.unbind(&rig.session, VHOST, binding(source, queue, "x.y")).await.unwrap();
    }
    let bind = |spec| rig.queues.bind(&rig.session, VHOST, spec);
    let missing = bind(binding("nowhere", "a", "k")).await.unwrap_err();
    assert!(matches!(missing, QueueError::NotFound { entity: Entity::Exchange, .. }), "{missing}");
    let missing = bind(binding("topics", "nobody", "k")).await.unwrap_err();
    assert!(matches!(missing, QueueError::NotFound { entity: Entity::Queue, .. }), "{missing}");
    assert!(matches!(bind(binding("", "a", "k")).await, Err(QueueError::DefaultExchange)));
    let in_use = DeleteIf { unused: true, empty: false };
    let refused = rig.queues.delete_exchange(&rig.session, VHOST, "topics", in_use).await;
    assert!(matches!(refused, Err(QueueError::InUse { entity: Entity::Exchange, .. })));
    assert!(rig.queues.delete_exchange(&rig.session, VHOST, "topics", DeleteIf::default()).await.unwrap());
    assert!(!rig.queues.delete_exchange(&rig.session, VHOST, "topics", DeleteIf::default()).await.unwrap());
}

/// Through exchanges, round in circles, each queue once; alternates where nothing fits.
#[tokio::test(start_paused = true)]
async fn exchanges_lead_to_exchanges() {
    let rig = Rig::new().await;
    for name in ["one", "two", "three"] {
        rig.exchange(name, ExchangeKind::Fanout).await;
        rig.queue(&format!("q-{name}")).await;
        rig.bind(name, &format!("q-{name}"), "").await;
    }
    for (from, to) in [("one", "two"), ("two", "three"), ("three", "one"), ("one", "one")] {
        rig.queues.bind_exchange(&rig.session, VHOST, binding(from, to, "")).await.unwrap();
    }
    assert_eq!(rig.routed("two", ""), ["q-one", "q-three", "q-two"]);
    rig.queues.unbind_exchange(&rig.session, VHOST, binding("two", "three", "")).await.unwrap();
    assert_eq!(rig.routed("two", ""), ["q-two"]);
    assert!(!rig.queues.routes_by_headers(VHOST, "one"));
    rig.queues.bind_exchange(&rig.session, VHOST, binding("two", "amq.headers", "")).await.unwrap();
    assert!(rig.queues.routes_by_headers(VHOST, "one"));
    let alternate = |name: &str, to: &str| ExchangeSpec {
        arguments: arguments(&[("alternate-exchange", Value::text(to))]),
        ..exchange(name, ExchangeKind::Direct)
    };
    for (name, to) in [("first", "second"), ("second", "three"), ("lost", "nowhere"), ("by-name", "")] {
        rig.queues.declare_exchange(&rig.session, VHOST, alternate(name, to)).await.unwrap();
    }
    rig.bind("first", "q-one", "known").await;
    assert_eq!(rig.routed("first", "known"), ["q-one"]);
    assert_eq!(rig.routed("first", "unknown"), ["q-one", "q-three", "q-two"]);
    assert!(rig.route("lost", "unknown").is_empty());
    assert_eq!(rig.routed("by-name", "q-two"), ["q-two"]);
    let spec = ExchangeSpec { internal: true, ..exchange("inside", ExchangeKind::Fanout) };
    rig.queues.declare_exchange(&rig.session, VHOST, spec).await.unwrap();
    let refused = rig.queues.route(VHOST, "inside", b"", &ferrymq_broker::queues::NoHeaders).unwrap_err();
    assert!(matches!(refused, QueueError::Internal { .. }), "{refused}");
    rig.bind("inside", "q-one", "").await;
    rig.queues.bind_exchange(&rig.session, VHOST, binding("first", "inside", "in")).await.unwrap();
    assert_eq!(rig.routed("first", "in"), ["q-one"]);
}

#[tokio::test(start_paused = true)]
async fn headers_reach_the_bindings() {
    let rig = Rig::new().await;
    rig.queue("q").await;
    let spec =
        BindingSpec { arguments: arguments(&[("kind", Value::text("a"))]), ..binding("amq.match", "q", "") };
    rig.queues.bind(&rig.session, VHOST, spec).await.unwrap();
    let route = |value: &str| {
        let headers = arguments(&[("kind", Value::text(value))]);
        rig.queues.route(VHOST, "amq.match", b"", &headers).unwrap().queues().len()
    };
    assert_eq!((route("a"), route("b")), (1, 0));
    let wrong = arguments(&[("x-match", Value::text("perhaps"))]);
    let spec = BindingSpec { arguments: wrong, ..binding("amq.match", "q", "") };
    let refused = rig.queues.bind(&rig.session, VHOST, spec).await.unwrap_err();
    assert!(matches!(refused, QueueError::Unfit(Unfit::Match(_))), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_needs_goes_with_what_needed_it() {
    let rig = Rig::new().await;
    for name in ["auto", "upstream"] {
        let spec = ExchangeSpec { auto_delete: true, ..exchange(name, ExchangeKind::Fanout) };
        rig.queues.declare_exchange(&rig.session, VHOST, spec).await.unwrap();
    }
    rig.queue("kept").await;
    let queue = rig.declare(QueueSpec { auto_delete: true, ..durable("q") }).await.queue;
    rig.bind("auto", "q", "").await;
    rig.bind("auto", "kept", "").await;
    rig.queues.bind_exchange(&rig.session, VHOST, binding("upstream", "auto", "")).await.unwrap();
    let (sink, _all) = deliveries(1024);
    let other = rig.queues.session();
    let new = ferrymq_broker::queues::NewConsumer::new(1, Credit::Unlimited);
    rig.queues.consume(&other, VHOST, "q", new, &sink).await.unwrap();
    let mine = rig.consume("q", Credit::Unlimited, &sink).await;
    let refused =
        rig.queues.delete_queue(&rig.session, VHOST, "q", DeleteIf { unused: true, empty: false }).await;
    assert!(matches!(refused, Err(QueueError::InUse { entity: Entity::Queue, .. })));
    rig.queues.cancel(&rig.session, &mine).await.unwrap();
    assert_eq!(rig.stat(&queue).await.consumers, 1);
    other.close().await;
    assert!(rig.queues.stat(&queue).await.is_err(), "it went with its last consumer");
    assert_eq!(rig.routed("upstream", ""), ["kept"]);
    rig.publish("kept", &["a"]).await;
    let delete = |only_if| rig.queues.delete_queue(&rig.session, VHOST, "kept", only_if);
    let refused = delete(DeleteIf { unused: true, empty: true }).await;
    assert!(matches!(refused, Err(QueueError::NotEmpty { .. })));
    assert_eq!(delete(DeleteIf::default()).await.unwrap(), 1);
    for name in ["auto", "upstream"] {
        assert!(rig.queues.exchange(VHOST, name).is_err(), "{name} went with its last binding");
    }
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_is_its_sessions() {
    let rig = Rig::new().await;
    let other = rig.queues.session();
    let spec = QueueSpec { exclusive: true, ..durable("mine") };
    let queue = rig.declare(spec.clone()).await.queue;
    rig.publish("mine", &["a"]).await;
    assert!(!rig.declare(spec.clone()).await.created);
    let locked = |result: Result<(), QueueError>| {
        assert!(matches!(result, Err(QueueError::ExclusiveLocked { .. })), "{result:?}");
    };
    locked(rig.queues.declare_queue(&other, VHOST, spec).await.map(drop));
    locked(rig.queues.declare_queue(&rig.session, VHOST, durable("mine")).await.map(drop));
    locked(rig.queues.queue(&other, VHOST, "mine").await.map(drop));
    locked(rig.queues.get(&other, VHOST, "mine", true).await.map(drop));
    locked(rig.queues.purge(&other, VHOST, "mine").await.map(drop));
    locked(rig.queues.bind(&other, VHOST, binding("amq.fanout", "mine", "")).await);
    locked(rig.queues.delete_queue(&other, VHOST, "mine", DeleteIf::default()).await.map(drop));
    let Rig { queues, session, .. } = rig;
    session.close().await;
    assert!(queues.stat(&queue).await.is_err());
    // The next one may take the log, but nothing of what lay in it.
    let again = QueueSpec {
        name: Arc::from(""),
        durable: false,
        exclusive: true,
        auto_delete: true,
        arguments: Arguments::default(),
    };
    let declared = queues.declare_queue(&other, VHOST, again).await.unwrap();
    assert_eq!(declared.queue.log(), queue.log(), "logs of short-lived queues are used again");
    let get = || queues.get(&other, VHOST, declared.queue.name(), true);
    assert_eq!(get().await.unwrap(), None);
    let publish = Publish { message: message("", "b", true), to: Routed::to(vec![declared.queue.clone()]) };
    assert!(queues.publish(vec![publish]).await.await.failed.is_empty());
    assert_eq!(body(&get().await.unwrap().unwrap().delivery), "b");
}

#[tokio::test(start_paused = true)]
async fn virtual_hosts_are_apart() {
    let rig = Rig::new().await;
    assert!(rig.queues.create_vhost("b/c").await.unwrap());
    assert!(!rig.queues.create_vhost("b/c").await.unwrap());
    rig.queue("q").await;
    let other = rig.queues.declare_queue(&rig.session, "b/c", durable("q")).await.unwrap();
    assert!(other.created);
    rig.publish("q", &["a"]).await;
    assert_eq!(rig.stat(&other.queue).await.ready, 0);
    assert!(rig.queues.exchange("b/c", "amq.direct").is_ok());
}
