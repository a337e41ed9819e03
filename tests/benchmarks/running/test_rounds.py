from benchmarks.running.rounds import alternating


def test_every_second_round_reverses_the_one_before_it():
    orders = [order for _, order in alternating("abcd", rounds=6, seed=1)]
    assert [orders[i][::-1] for i in (0, 2, 4)] == [orders[i] for i in (1, 3, 5)]


def test_every_entry_is_in_every_round_and_rounds_are_numbered():
    rounds = list(alternating("abc", rounds=4, seed=1))
    assert [number for number, _ in rounds] == [0, 1, 2, 3]
    assert {tuple(sorted(order)) for _, order in rounds} == {("a", "b", "c")}


def test_the_seed_decides_the_orders():
    def orders(seed):
        return list(alternating(range(9), rounds=4, seed=seed))

    assert orders(1) == orders(1) != orders(2)
