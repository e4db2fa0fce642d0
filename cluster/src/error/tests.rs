use std::io;

use super::*;

fn chain(error: &dyn Error) -> Vec<String> {
    std::iter::successors(Some(error), |&error| error.source()).map(ToString::to_string).collect()
}

#[derive(Debug, thiserror::Error)]
#[error("the room cannot be loaded")]
struct NotLoaded(#[source] io::Error);

fn not_loaded() -> RemoteError {
    RemoteError::here(NotLoaded(io::Error::other("the disk is full")))
}

#[test]
fn only_what_was_sent_may_have_run() {
    let codec = |part| ClusterCallError::Codec(CodecError::new("bad").of(part));
    let large = |part| ClusterCallError::TooLarge(TooLarge { part, size: 2, max: 1 });
    for (error, may_have_run) in [
        (ClusterCallError::NotDelivered(Why::Moving), false),
        (ClusterCallError::NoReply(Why::OwnerDied), true),
        (ClusterCallError::TimedOut, true),
        (ClusterCallError::NotStarted(not_loaded()), false),
        (ClusterCallError::NotFound, false),
        (ClusterCallError::WouldDeadlock, false),
        (ClusterCallError::Left, false),
        (codec(Part::Key), false),
        (codec(Part::Message), false),
        (codec(Part::Reply), true),
        (large(Part::Message), false),
        (large(Part::Reply), true),
    ] {
        assert_eq!(error.may_have_run(), may_have_run, "{error}");
    }
    let unknown = ClusterCastError::<u8>::Unknown { why: Why::TimedOut };
    assert!(unknown.may_have_run() && unknown.into_cast().is_none());
    let not_delivered = ClusterCastError::NotDelivered { cast: 7.into(), why: Why::NoOwner };
    assert!(!not_delivered.may_have_run());
    assert_eq!(not_delivered.into_cast(), Some(7));
}

#[test]
fn error_of_init_is_returned_on_its_own_node() {
    let here = ClusterCallError::NotStarted(not_loaded());
    assert!(here.init_error::<NotLoaded>().is_some());
    assert!(here.init_error::<io::Error>().is_some());
    assert!(here.init_error::<fmt::Error>().is_none());
    let elsewhere = ClusterCallError::NotStarted(RemoteError::from_chain(&not_loaded().chain()));
    assert!(elsewhere.init_error::<NotLoaded>().is_none());
    assert_eq!(chain(&elsewhere), chain(&here));
    assert_eq!(chain(&here), [NOT_STARTED, "the room cannot be loaded", "the disk is full"]);
}

#[test]
fn text_of_a_remote_error_is_bounded() {
    let long = vec!["ä".repeat(MANY); MANY];
    let error = RemoteError::from_chain(&long);
    assert!(error.chain().len() <= 16, "{}", error.chain().len());
    assert!(error.chain().iter().all(|text| text.len() <= 4096 && text.starts_with('ä')));
    assert_eq!(RemoteError::from_chain(&[]).to_string(), "an error without text");
}

const MANY: usize = 5_000;

#[test]
fn reasons_are_in_the_text() {
    let why = Why::Unreachable(Unreachable::new("it belongs to the cluster `b`, this node to `a`"));
    let error = ClusterCallError::NotDelivered(why);
    assert_eq!(
        error.to_string(),
        "the node that owns the key cannot be reached: it belongs to the cluster `b`, this node to `a`; the message was \
         not handled, and it is safe to repeat the call"
    );
    let error = ClusterCallError::Codec(CodecError::new("missing field `user`"));
    assert_eq!(chain(&error), ["the message cannot be encoded or decoded", "missing field `user`"]);
    let error = TooLarge { part: Part::Reply, size: 9, max: 4 };
    assert_eq!(error.to_string(), "the reply has 9 bytes and at most 4 are sent; the message was handled");
}

#[test]
fn errors_convert_for_any_message() {
    fn converts<E: Error + Send + Sync + 'static>() {}
    converts::<ClusterCallError>();
    converts::<ClusterCastError<std::cell::Cell<u8>>>();
    let cast = ClusterCastError::NotFound(std::cell::Cell::new(1).into());
    assert_eq!(format!("{cast:?}"), "NotFound(..)");
}
