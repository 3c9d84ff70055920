from swa_tools.measurements import read_numbers
from swa_tools.report.figures.ray import ray_picture


def test_message_of_rays_says_which_is_wider(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "rays.npz")
    found = {
        "1": {"mean": 2.0, "interval": [1.0, 3.0]},
        "5": {"mean": -2.0, "interval": [-3.0, -1.0]},
    }
    numbers.description["wider_than_next"] = [found]
    message = ray_picture(numbers).message
    assert "At 1 point swa is wider than cycle-001 by 2 (95 % interval 1 to 3)." in message
    assert "At 5 points cycle-001 is wider than swa by 2 (95 % interval 1 to 3)." in message
    numbers.description["wider_than_next"] = [{"1": {"mean": 1, "interval": [-1, 3]}, "5": None}]
    message = ray_picture(numbers).message
    assert "do not differ significantly: the 95 % interval of the difference is -1 to 3" in message
    assert "is unknown" in message
