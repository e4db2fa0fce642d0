use super::*;
use crate::transport::frame::{AnswerFrame, OutcomeFrame};

fn push(outbox: &mut Outbox<OutcomeFrame>, id: u64, size: usize) {
    outbox.push(id, OutcomeFrame::default(), vec![0; size].into());
}

fn leave(popped: Popped) -> (u64, usize, bool) {
    let (frame, last) = match popped {
        Popped::Frame(frame) => (frame, false),
        Popped::Last(_, frame) => (frame, true),
    };
    match frame {
        Frame::Answer(AnswerFrame { id, body, .. }) | Frame::Piece(Piece { id, body }) => (id, body.len(), last),
        _ => (0, 0, last),
    }
}

fn all(outbox: &mut Outbox<OutcomeFrame>) -> Vec<(u64, usize, bool)> {
    std::iter::from_fn(|| outbox.pop(true)).map(leave).collect()
}

#[test]
fn small_messages_leave_in_order_behind_control() {
    let mut outbox = Outbox::new();
    push(&mut outbox, 1, 10);
    push(&mut outbox, 2, PIECE);
    push(&mut outbox, 3, 0);
    outbox.push_control(Frame::Cancel(7));
    assert_eq!(outbox.bytes(), 10 + PIECE);
    assert_eq!(all(&mut outbox), [(0, 0, false), (1, 10, true), (2, PIECE, true), (3, 0, true)]);
    assert!(outbox.is_empty());
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn large_bodies_take_turns_with_small_ones() {
    let mut outbox = Outbox::new();
    for id in 1..=2 {
        push(&mut outbox, id, 3 * PIECE + 1);
    }
    for id in 10..1_000 {
        push(&mut outbox, id, 1_000);
    }
    let left = all(&mut outbox);
    assert_eq!(left.iter().map(|(_, size, _)| size).sum::<usize>(), 2 * (3 * PIECE + 1) + 990 * 1_000);
    // Between two pieces are at most as many bytes of small messages as a piece has.
    let pieces: Vec<usize> = (0..left.len()).filter(|at| left[*at].0 < 10).collect();
    assert_eq!(pieces.len(), 8);
    assert!(pieces.windows(2).all(|pair| pair[1] - pair[0] <= PIECE / 1_000 + 2), "{pieces:?}");
    assert!(pieces[0] > 0 && pieces[0] <= PIECE / 1_000 + 2, "{pieces:?}");
    // The bodies take turns, and each has one last piece.
    assert_eq!(pieces.iter().map(|at| left[*at].0).collect::<Vec<_>>(), [1, 2, 1, 2, 1, 2, 1, 2]);
    assert_eq!(left.iter().filter(|(id, _, last)| *id < 10 && *last).count(), 2);
}

#[test]
fn few_large_bodies_are_cut_at_a_time() {
    let mut outbox = Outbox::new();
    for id in 1..=10 {
        push(&mut outbox, id, 2 * PIECE);
    }
    let left = all(&mut outbox);
    let mut open = Vec::new();
    for (id, _, last) in left {
        open.retain(|other| *other != id);
        if !last {
            open.push(id);
        }
        assert!(open.len() <= LANES);
    }
}

#[test]
fn removed_messages_do_not_leave() {
    let mut outbox = Outbox::new();
    push(&mut outbox, 1, 1);
    push(&mut outbox, 2, 3 * PIECE);
    push(&mut outbox, 3, 3 * PIECE);
    assert_eq!(outbox.remove(1), Removed::Whole);
    assert_eq!(outbox.remove(1), Removed::Absent);
    outbox.pop(true).expect("the first piece of 2");
    assert_eq!(outbox.remove(2), Removed::Begun);
    assert_eq!(outbox.remove(3), Removed::Whole);
    assert!(outbox.is_empty());
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn rewound_bodies_leave_from_their_first_piece() {
    let mut outbox = Outbox::new();
    push(&mut outbox, 1, 3 * PIECE);
    push(&mut outbox, 2, 3 * PIECE);
    outbox.pop(true).expect("the first piece of 1");
    assert_eq!(outbox.rewind(), [1]);
    assert_eq!(outbox.bytes(), 6 * PIECE);
    assert_eq!(all(&mut outbox).iter().filter(|(id, ..)| *id == 1).count(), 3);
}

#[test]
fn only_control_leaves_without_messages() {
    let mut outbox = Outbox::new();
    push(&mut outbox, 1, 1);
    assert!(outbox.pop(false).is_none());
    outbox.push_control(Frame::Cancel(7));
    assert!(outbox.pop(false).is_some());
    assert!(outbox.pop(false).is_none());
    assert_eq!(outbox.clear(), [1]);
}
