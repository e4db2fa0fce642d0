use std::sync::Arc;
use std::task::Wake;

use super::*;

struct Nothing;

impl Wake for Nothing {
    fn wake(self: Arc<Self>) {}
}

fn waker() -> (Arc<Nothing>, Waker) {
    let woken = Arc::new(Nothing);
    (Arc::clone(&woken), Waker::from(woken))
}

fn receive_all(state: &mut State<u32>, messages: u32) {
    (0..messages).for_each(|message| drop(state.push(message, MessageKind::Cast)));
    while state.pop(u32::MAX).is_some() {}
}

#[test]
fn empty_queue_keeps_memory_for_few_messages() {
    let mut state = State::default();
    receive_all(&mut state, 1_000);
    state.shrink(8);
    assert!(state.messages.capacity() <= 8, "{} are kept", state.messages.capacity());
    state.shrink(0);
    receive_all(&mut state, 3);
    let few = state.messages.capacity();
    state.shrink(8);
    assert_eq!(state.messages.capacity(), few, "an allocation for each message");
    let mut first = || {
        drop(state.push(1, MessageKind::Cast));
        let place = std::ptr::from_ref(&state.messages[0]);
        drop(state.pop(u32::MAX));
        state.shrink(8);
        place
    };
    assert_eq!(first(), first(), "single messages walk through the memory");
}

#[test]
fn unused_parts_of_a_queue_are_released() {
    let is_kept = |change: fn(&mut State<u32>)| {
        let mut state = State { cold: Some(Box::default()), ..State::default() };
        change(&mut state);
        state.shrink(8);
        state.cold.is_some()
    };
    assert!(!is_kept(|_| {}));
    assert!(is_kept(|state| state.mark_run_boundary()));
    assert!(is_kept(|state| _ = state.enqueue_waiter(Waker::noop())));
    assert!(is_kept(|state| state.reserved = 1), "a ticket may be in use");
    let tick = |state: &mut State<u32>| {
        let (sequence, _) = state.push(1, MessageKind::Cast);
        state.record_tick(sequence);
        drop(state.pop(u32::MAX));
    };
    assert!(is_kept(tick), "the tick that was delivered is not counted");
    assert!(is_kept(|state| state.cold.get_or_insert_default().ticks.delivered = 1));
}

#[test]
fn parked_receiver_is_the_last_one_polled() {
    let mut state = State::<u32>::default();
    let ((held, first), (_, other)) = (waker(), waker());
    assert!(state.park_receiver(&first).is_none());
    let references = Arc::strong_count(&held);
    assert!(state.park_receiver(&first).is_none(), "the same one is not cloned again");
    assert_eq!(Arc::strong_count(&held), references);
    let former = state.park_receiver(&other);
    assert!(former.is_some_and(|former| former.will_wake(&first)), "to be dropped outside the lock");
    assert!(state.receiver.is_some_and(|parked| parked.will_wake(&other)), "another task would be woken");
}

#[test]
fn freed_capacity_goes_to_the_longest_waiting() {
    let mut state = State::default();
    let (first, second) = (waker().1, waker().1);
    drop(state.push(1, MessageKind::Cast));
    let tickets = [state.enqueue_waiter(&first), state.enqueue_waiter(&second)];
    assert!(state.release_permit(1).is_none() && state.reserved == 0, "the queue is full");
    // Beyond the capacity, as the worker's own timers send.
    drop(state.push(2, MessageKind::Cast));
    assert!(state.pop(1).is_some_and(|(_, woken)| woken.is_none()), "there is still no room");
    let woken = state.pop(1).and_then(|(_, woken)| woken);
    assert!(woken.is_some_and(|woken| woken.will_wake(&first)) && state.reserved == 1);
    assert!(!state.has_capacity(1), "it is reserved");
    assert!(state.waiter_mut(tickets[0]).is_none() && state.waiter_mut(tickets[1]).is_some());
}
