from swa_tools.measurements import read_numbers
from swa_tools.report.figures.segment import segment_picture


def test_message_of_a_segment_says_that_a_minimum_may_lie_beyond(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "segment.npz")
    width = numbers.description["width"]
    width.update(train_minimum=1.0, test_minimum=0.0)
    assert "beyond" not in segment_picture(numbers).message
    width["test_minimum"] = float(numbers.arrays["position"][0])
    assert "For test error that is the end" in segment_picture(numbers).message


def test_segment_between_other_checkpoints_is_not_called_average_and_conventional(
    tmp_path, write_surfaces
):
    write_surfaces(tmp_path)
    numbers = read_numbers(tmp_path / "segment.npz")
    first, second = numbers.description["checkpoints"]
    numbers.description["checkpoints"] = [second, first]
    message = segment_picture(numbers).message
    assert "the conventional weights, at 0, and the average, at 4" in message
    numbers.description["checkpoints"] = [second, {**second, "name": "b.safetensors"}]
    assert "cycle-001, at 0, and b, at 4" in segment_picture(numbers).message
