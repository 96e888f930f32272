//! Class confirm: publisher confirms (an extension of RabbitMQ, class 85).

methods! {
    'a 85 "confirm";

    /// Has publishings on this channel confirmed.
    Select<> = 10 "select" {
        /// Send no answer.
        nowait: bit,
    }

    /// The answer to [`Select`].
    SelectOk<> = 11 "select-ok" {}
}
