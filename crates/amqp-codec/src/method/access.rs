//! Class access: of AMQP 0-8, which some clients still ask for and RabbitMQ grants to all (class 30).

methods! {
    'a 30 "access";

    /// Asks for a ticket.
    Request<'a> = 10 "request" {
        /// The realm.
        realm: shortstr,
        /// Alone in the realm.
        exclusive: bit,
        /// To ask about things.
        passive: bit,
        /// To declare things.
        active: bit,
        /// To publish.
        write: bit,
        /// To consume.
        read: bit,
    }

    /// Grants a ticket.
    RequestOk<> = 11 "request-ok" {
        /// The ticket; 1 is as good as any.
        ticket: short,
    }
}
