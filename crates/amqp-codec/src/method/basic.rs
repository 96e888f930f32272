//! Class basic: publishing, consuming and acknowledging (AMQP 0-9-1 reference, class 60).

methods! {
    'a 60 "basic";

    /// Bounds what is delivered and not acknowledged.
    Qos<> = 10 "qos" {
        /// In bytes; RabbitMQ knows only 0, no limit.
        prefetch_size: long,
        /// In messages; 0 is no limit.
        prefetch_count: short,
        /// For the channel as a whole rather than for each later consumer.
        global: bit,
    }

    /// The answer to [`Qos`].
    QosOk<> = 11 "qos-ok" {}

    /// Starts a consumer.
    Consume<'a> = 20 "consume" {
        /// Reserved.
        ticket: short,
        /// The queue; empty is the one declared last on the channel.
        queue: shortstr,
        /// Name of the consumer within the channel; empty lets the server choose.
        consumer_tag: shortstr,
        /// Not what this connection published; RabbitMQ ignores it.
        no_local: bit,
        /// Deliveries count as acknowledged when they are sent.
        no_ack: bit,
        /// Only if nobody else consumes, and nobody else may.
        exclusive: bit,
        /// Send no answer.
        nowait: bit,
        /// What else there is to say, such as `x-priority`.
        arguments: table,
    }

    /// The answer to [`Consume`].
    ConsumeOk<'a> = 21 "consume-ok" {
        /// Name of the consumer.
        consumer_tag: shortstr,
    }

    /// Ends a consumer; sent by the server too, when the queue goes (an extension of RabbitMQ).
    Cancel<'a> = 30 "cancel" {
        /// Name of the consumer.
        consumer_tag: shortstr,
        /// Send no answer.
        nowait: bit,
    }

    /// The answer to [`Cancel`].
    CancelOk<'a> = 31 "cancel-ok" {
        /// Name of the consumer.
        consumer_tag: shortstr,
    }

    /// Publishes a message; content follows.
    Publish<'a> = 40 "publish" {
        /// Reserved.
        ticket: short,
        /// The exchange; empty is the default one, which routes to the queue of the key's name.
        exchange: shortstr,
        /// Where to.
        routing_key: shortstr,
        /// Return the message if no queue gets it.
        mandatory: bit,
        /// Return the message if no consumer is ready; RabbitMQ does not have that.
        immediate: bit,
    }

    /// A message that comes back to its publisher; content follows.
    Return<'a> = 50 "return" {
        /// Why: [`ReplyCode::NoRoute`](crate::reply_code::ReplyCode::NoRoute).
        reply_code: short,
        /// Why in words: `NO_ROUTE`.
        reply_text: shortstr,
        /// The exchange it was published to.
        exchange: shortstr,
        /// The key it was published with.
        routing_key: shortstr,
    }

    /// A message for a consumer; content follows.
    Deliver<'a> = 60 "deliver" {
        /// Name of the consumer.
        consumer_tag: shortstr,
        /// Number of the delivery within the channel, from 1.
        delivery_tag: longlong,
        /// Somebody may have seen it before.
        redelivered: bit,
        /// The exchange it was published to.
        exchange: shortstr,
        /// The key it was published with.
        routing_key: shortstr,
    }

    /// Asks for one message.
    Get<'a> = 70 "get" {
        /// Reserved.
        ticket: short,
        /// The queue; empty is the one declared last on the channel.
        queue: shortstr,
        /// The message counts as acknowledged when it is sent.
        no_ack: bit,
    }

    /// The answer to [`Get`]; content follows.
    GetOk<'a> = 71 "get-ok" {
        /// Number of the delivery within the channel, from 1.
        delivery_tag: longlong,
        /// Somebody may have seen it before.
        redelivered: bit,
        /// The exchange it was published to.
        exchange: shortstr,
        /// The key it was published with.
        routing_key: shortstr,
        /// How many messages are left ready.
        message_count: long,
    }

    /// The answer to [`Get`] when there is no message.
    GetEmpty<'a> = 72 "get-empty" {
        /// Reserved.
        cluster_id: shortstr,
    }

    /// Acknowledges deliveries or, from the server, confirms publishings.
    Ack<> = 80 "ack" {
        /// Number of the delivery or publishing; 0 with `multiple` is all so far.
        delivery_tag: longlong,
        /// All up to that number.
        multiple: bit,
    }

    /// Refuses a delivery.
    Reject<> = 90 "reject" {
        /// Number of the delivery.
        delivery_tag: longlong,
        /// Back into the queue, rather than dropped or dead-lettered.
        requeue: bit,
    }

    /// As [`Recover`], without an answer.
    RecoverAsync<> = 100 "recover-async" {
        /// Back into the queue, rather than to the same consumer.
        requeue: bit,
    }

    /// Has everything that is not acknowledged delivered again.
    Recover<> = 110 "recover" {
        /// Back into the queue, rather than to the same consumer.
        requeue: bit,
    }

    /// The answer to [`Recover`].
    RecoverOk<> = 111 "recover-ok" {}

    /// Refuses deliveries or, from the server, publishings (an extension of RabbitMQ).
    Nack<> = 120 "nack" {
        /// Number of the delivery or publishing; 0 with `multiple` is all so far.
        delivery_tag: longlong,
        /// All up to that number.
        multiple: bit,
        /// Back into the queue, rather than dropped or dead-lettered.
        requeue: bit,
    }
}
