//! The laws of pools: never fewer than `min`, never more than `max`, up only for what waits, down only for a cause.

use amphi_supervisors::scaling::{Demand, Pool, Scale, Shortage, Why, scale};

fn all() -> impl Iterator<Item = (Pool, Demand)> {
    let shortages = [None, Some(Shortage::Memory), Some(Shortage::Cpu)];
    let pools = (0..4u32).flat_map(|min| (min..5).flat_map(move |max| (0..7).map(move |agents| (min, max, agents))));
    pools.flat_map(move |(min, max, agents)| {
        (0..=agents).flat_map(move |idle| {
            (0..=idle).flat_map(move |long_idle| {
                (0..4).flat_map(move |waiting| {
                    (0..4).flat_map(move |room| {
                        let pool = Pool { min, max, agents, idle, long_idle };
                        shortages.into_iter().map(move |shortage| (pool, Demand { waiting, room, shortage }))
                    })
                })
            })
        })
    })
}

#[test]
fn a_pool_never_gets_more_than_max_nor_fewer_than_min() {
    for (pool, demand) in all() {
        match scale(pool, demand) {
            Scale::Stay => assert!(pool.agents >= pool.min && pool.agents <= pool.max, "{pool:?} {demand:?}"),
            Scale::Up(count) => assert!(count > 0 && pool.agents + count <= pool.max, "{pool:?} {demand:?}"),
            Scale::Down(count, _) => assert!(count > 0 && pool.agents - count >= pool.min, "{pool:?} {demand:?}"),
        }
    }
}

#[test]
fn under_a_shortage_nobody_comes_and_at_most_min_stay() {
    for (pool, demand) in all().filter(|(pool, _)| (pool.min..=pool.max).contains(&pool.agents)) {
        let Some(shortage) = demand.shortage else { continue };
        let wanted = match pool.agents - pool.min {
            0 => Scale::Stay,
            surplus => Scale::Down(surplus, Why::Short(shortage)),
        };
        assert_eq!(scale(pool, demand), wanted, "{pool:?} {demand:?}");
    }
}

#[test]
fn a_pool_grows_only_for_what_waits_where_the_node_has_room_and_nobody_is_idle() {
    for (pool, demand) in all().filter(|(pool, _)| (pool.min..=pool.max).contains(&pool.agents)) {
        if let Scale::Up(count) = scale(pool, demand) {
            assert!(pool.idle + count <= demand.waiting.min(demand.room), "{pool:?} {demand:?}");
        }
    }
    let pool = Pool { min: 1, max: 4, agents: 1, idle: 0, long_idle: 0 };
    assert_eq!(scale(pool, Demand { waiting: 9, room: 2, shortage: None }), Scale::Up(2));
}

#[test]
fn only_those_who_had_nothing_to_do_for_long_go_for_idleness() {
    let pool = Pool { min: 1, max: 4, agents: 4, idle: 3, long_idle: 2 };
    assert_eq!(scale(pool, Demand { waiting: 0, room: 4, shortage: None }), Scale::Down(2, Why::Idle));
    assert_eq!(scale(pool, Demand { waiting: 1, room: 4, shortage: None }), Scale::Stay);
    assert_eq!(scale(Pool { long_idle: 4, idle: 4, ..pool }, Demand::default()), Scale::Down(3, Why::Idle));
}
