use super::*;

fn part(shard: u16, cost: usize) -> Part {
    Part { shard: Some(Shard(shard)), cost }
}

/// Lets requests of a shard enter until one waits, and returns how many are open.
fn fill(window: &mut Window<u64>, shard: u16, ids: &mut u64) -> usize {
    let mut open = 0;
    loop {
        *ids += 1;
        match window.enter(*ids, part(shard, 1), *ids) {
            Some(_) => open += 1,
            None => match window.next() {
                Some(_) => open += 1,
                None => return open,
            },
        }
    }
}

#[test]
fn c9_shards_that_take_all_they_get_leave_room() {
    let (mut window, mut ids) = (Window::new(4_096), 0);
    assert_eq!(fill(&mut window, 0, &mut ids), 2_048, "one shard has half of the window");
    let second = fill(&mut window, 1, &mut ids);
    assert_eq!(second, 1_024, "what is left is not for the second one alone");
    // The first one ends some, and does not get them all again.
    for _ in 0..2_048 {
        window.leave(part(0, 1));
        while window.next().is_some() {}
    }
    assert!(window.enter(ids + 1, part(2, 1), 0).is_some(), "a shard that has nothing open");
}

#[test]
fn requests_of_a_shard_keep_their_order_and_shards_take_turns() {
    let mut window = Window::new(2);
    assert!(window.enter(1, part(0, 1), 1).is_some());
    assert!(window.enter(2, part(1, 1), 2).is_some());
    for (id, shard) in [(3, 0), (4, 0), (5, 1), (6, 2), (7, 1)] {
        assert!(window.enter(id, part(shard, 1), id).is_none());
        assert!(window.next().is_none());
    }
    assert_eq!(window.waiting(), 5);
    assert_eq!(window.remove(5, Some(Shard(1))), Some(5));
    assert_eq!(window.remove(5, Some(Shard(1))), None);
    let mut entered = Vec::new();
    let mut open = VecDeque::from([0, 1]);
    while let Some(shard) = open.pop_front() {
        window.leave(part(shard, 1));
        while let Some((id, _)) = window.next() {
            entered.push(id);
            open.push_back(match id {
                3 | 4 => 0,
                6 => 2,
                _ => 1,
            });
        }
    }
    assert_eq!(entered, [3, 7, 6, 4]);
    assert_eq!((window.waiting(), window.free), (0, 2));
}

#[test]
fn large_request_does_not_starve() {
    let mut window = Window::new(8);
    for id in 1..=4 {
        assert!(window.enter(id, part(id as u16, 1), id).is_some());
    }
    assert!(window.enter(5, part(9, 8), 5).is_none(), "it takes all of the window");
    assert!(window.next().is_none());
    assert!(window.enter(6, part(8, 1), 6).is_none(), "a small one does not enter before it");
    for shard in 1..=4 {
        assert!(window.next().is_none());
        window.leave(part(shard, 1));
    }
    assert_eq!(window.next(), Some((5, 5)));
    assert!(window.next().is_none());
    window.leave(part(9, 8));
    assert_eq!(window.next(), Some((6, 6)));
}

#[test]
fn request_without_a_key_has_no_share() {
    let mut window = Window::new(4);
    for id in 1..=4 {
        assert!(window.enter(id, Part { shard: None, cost: 1 }, id).is_some());
    }
    assert!(window.enter(5, Part { shard: None, cost: 1 }, 5).is_none());
    assert!(window.next().is_none());
    window.leave(Part { shard: None, cost: 1 });
    assert_eq!(window.next(), Some((5, 5)));
}

/// Any requests that enter, leave and are taken back: the sums are right, shares hold, and at the end each has entered.
#[test]
fn any_sequence_keeps_the_rules() {
    const SIZE: usize = 64;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for _ in 0..200 {
        let mut window = Window::new(SIZE);
        let (mut open, mut waiting) = (BTreeMap::new(), BTreeMap::new());
        for id in 0..400_u64 {
            let part = part(draw(6) as u16, if draw(20) == 0 { SIZE } else { 1 + draw(4) as usize });
            match draw(4) {
                0 | 1 => match window.enter(id, part, part) {
                    Some(part) => drop(open.insert(id, part)),
                    None => drop(waiting.insert(id, part)),
                },
                2 => {
                    if let Some((_, part)) = open.pop_first() {
                        window.leave(part);
                    }
                }
                _ => {
                    if let Some((id, part)) = waiting.pop_last() {
                        assert!(window.remove(id, part.shard).is_some());
                    }
                }
            }
            while let Some((id, part)) = window.next() {
                assert!(waiting.remove(&id).is_some(), "{id} does not wait");
                let of_shard = |id_of: &u64, other: &Part| *id_of < id && other.shard == part.shard;
                assert!(!waiting.iter().any(|(id, other)| of_shard(id, other)), "{id} has overtaken another");
                open.insert(id, part);
            }
            let cost: usize = open.values().map(|part: &Part| part.cost).sum();
            assert_eq!(window.free + cost, SIZE);
            assert_eq!(window.waiting(), waiting.len());
        }
        while let Some((_, part)) = open.pop_first() {
            window.leave(part);
            while let Some((id, part)) = window.next() {
                waiting.remove(&id);
                open.insert(id, part);
            }
        }
        assert!(waiting.is_empty(), "{} requests have starved", waiting.len());
        assert_eq!(window.free, SIZE);
    }
}
