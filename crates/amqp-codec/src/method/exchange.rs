//! Class exchange: declaring, deleting and binding exchanges (AMQP 0-9-1 reference, class 40).

methods! {
    'a 40 "exchange";

    /// Declares an exchange, or asks whether it is there.
    Declare<'a> = 10 "declare" {
        /// Reserved.
        ticket: short,
        /// The exchange.
        exchange: shortstr,
        /// Its type, such as `topic`: the field `type`.
        kind: shortstr,
        /// Only ask.
        passive: bit,
        /// Survives a restart.
        durable: bit,
        /// Goes when its last binding goes (an extension of RabbitMQ).
        auto_delete: bit,
        /// Takes messages from exchanges only (an extension of RabbitMQ).
        internal: bit,
        /// Send no answer.
        nowait: bit,
        /// What else there is to say.
        arguments: table,
    }

    /// The answer to [`Declare`].
    DeclareOk<> = 11 "declare-ok" {}

    /// Deletes an exchange.
    Delete<'a> = 20 "delete" {
        /// Reserved.
        ticket: short,
        /// The exchange.
        exchange: shortstr,
        /// Only if nothing is bound to it.
        if_unused: bit,
        /// Send no answer.
        nowait: bit,
    }

    /// The answer to [`Delete`].
    DeleteOk<> = 21 "delete-ok" {}

    /// Binds an exchange to an exchange (an extension of RabbitMQ).
    Bind<'a> = 30 "bind" {
        /// Reserved.
        ticket: short,
        /// The exchange that gets messages.
        destination: shortstr,
        /// The exchange that they come from.
        source: shortstr,
        /// Which messages.
        routing_key: shortstr,
        /// Send no answer.
        nowait: bit,
        /// What else there is to say.
        arguments: table,
    }

    /// The answer to [`Bind`].
    BindOk<> = 31 "bind-ok" {}

    /// Undoes a [`Bind`] (an extension of RabbitMQ).
    Unbind<'a> = 40 "unbind" {
        /// Reserved.
        ticket: short,
        /// The exchange that got messages.
        destination: shortstr,
        /// The exchange that they came from.
        source: shortstr,
        /// Which messages.
        routing_key: shortstr,
        /// Send no answer.
        nowait: bit,
        /// As when it was bound.
        arguments: table,
    }

    /// The answer to [`Unbind`]; its number is indeed not 41.
    UnbindOk<> = 51 "unbind-ok" {}
}
