from iddpm_jax.training.pace import Pace


def test_pace_waits_for_steps_that_have_others_behind_them():
    waited = []

    class Step:
        def __init__(self, number):
            self.number = number

        def block_until_ready(self):
            waited.append(self.number)

    pace = Pace()
    pace._mark = Step
    for number in range(5):
        pace.follow(number)
        assert waited == list(range(number - 1))
