//! Class tx: transactions of publishings and acknowledgements (AMQP 0-9-1 reference, class 90).

methods! {
    'a 90 "tx";

    /// Makes the channel transactional.
    Select<> = 10 "select" {}

    /// The answer to [`Select`].
    SelectOk<> = 11 "select-ok" {}

    /// Ends the transaction: all of it happens.
    Commit<> = 20 "commit" {}

    /// The answer to [`Commit`].
    CommitOk<> = 21 "commit-ok" {}

    /// Ends the transaction: nothing of it happens.
    Rollback<> = 30 "rollback" {}

    /// The answer to [`Rollback`].
    RollbackOk<> = 31 "rollback-ok" {}
}
