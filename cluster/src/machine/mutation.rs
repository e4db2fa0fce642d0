//! Mistakes that the simulator makes on purpose, to show that it would find them.

/// One mistake in the protocol. Only tests make a machine with one; in a program each question for a mutation is `false`
/// at compile time.
#[cfg_attr(not(test), allow(dead_code, reason = "only tests mutate"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The deadline is counted from the answer to a beat. (rule 3)
    DeadlineFromAnswer,
    /// An observer removes a member without the condition that there was no beat. (rule 5)
    RemovalWithoutCondition,
    /// A drain that has passed its timeouts counts as ended. (rule 9)
    StuckCountsAsEnded,
    /// The epoch is the create revision of the claim. (rule 7)
    CreateRevisionAsEpoch,
    /// The commit that gives a shard away is sent at the beginning of the drain. (rule 9)
    GiftBeforeDrain,
    /// A leaving node gives shards away before the map shows that it leaves. (rule 11)
    GiftsBeforeMark,
    /// An observer waits for `valid` instead of `take`. (rule 5)
    TakeIsValid,
}
