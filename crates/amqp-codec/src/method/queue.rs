//! Class queue: declaring, binding, emptying and deleting queues (AMQP 0-9-1 reference, class 50).

methods! {
    'a 50 "queue";

    /// Declares a queue, or asks whether it is there.
    Declare<'a> = 10 "declare" {
        /// Reserved.
        ticket: short,
        /// The queue; empty lets the server choose a name.
        queue: shortstr,
        /// Only ask.
        passive: bit,
        /// Survives a restart.
        durable: bit,
        /// Of this connection only, and goes with it.
        exclusive: bit,
        /// Goes when its last consumer goes.
        auto_delete: bit,
        /// Send no answer.
        nowait: bit,
        /// What else there is to say, such as `x-message-ttl`.
        arguments: table,
    }

    /// The answer to [`Declare`].
    DeclareOk<'a> = 11 "declare-ok" {
        /// The queue.
        queue: shortstr,
        /// How many messages are ready.
        message_count: long,
        /// How many consumers it has.
        consumer_count: long,
    }

    /// Binds a queue to an exchange.
    Bind<'a> = 20 "bind" {
        /// Reserved.
        ticket: short,
        /// The queue; empty is the one declared last on the channel.
        queue: shortstr,
        /// The exchange.
        exchange: shortstr,
        /// Which messages.
        routing_key: shortstr,
        /// Send no answer.
        nowait: bit,
        /// What else there is to say, such as `x-match`.
        arguments: table,
    }

    /// The answer to [`Bind`].
    BindOk<> = 21 "bind-ok" {}

    /// Drops the messages that are ready.
    Purge<'a> = 30 "purge" {
        /// Reserved.
        ticket: short,
        /// The queue; empty is the one declared last on the channel.
        queue: shortstr,
        /// Send no answer.
        nowait: bit,
    }

    /// The answer to [`Purge`].
    PurgeOk<> = 31 "purge-ok" {
        /// How many were dropped.
        message_count: long,
    }

    /// Deletes a queue.
    Delete<'a> = 40 "delete" {
        /// Reserved.
        ticket: short,
        /// The queue; empty is the one declared last on the channel.
        queue: shortstr,
        /// Only if it has no consumer.
        if_unused: bit,
        /// Only if no message is ready.
        if_empty: bit,
        /// Send no answer.
        nowait: bit,
    }

    /// The answer to [`Delete`].
    DeleteOk<> = 41 "delete-ok" {
        /// How many messages went with it.
        message_count: long,
    }

    /// Undoes a [`Bind`].
    Unbind<'a> = 50 "unbind" {
        /// Reserved.
        ticket: short,
        /// The queue; empty is the one declared last on the channel.
        queue: shortstr,
        /// The exchange.
        exchange: shortstr,
        /// Which messages.
        routing_key: shortstr,
        /// As when it was bound.
        arguments: table,
    }

    /// The answer to [`Unbind`].
    UnbindOk<> = 51 "unbind-ok" {}
}
