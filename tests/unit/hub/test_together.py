from edgeloop.hub.together import Together, device_of, devices_of, kind_of


def test_files_are_named_by_the_paths_at_which_they_could_be_fetched() -> None:
    together = Together()
    assert together.add("director/cam", {"timestamp.json": b"t"})
    reply = together.reply({"targets/files/x": b"f"})
    assert reply.whole == ("director/cam",)
    assert reply.metadata == {"director/cam/metadata/timestamp.json": b"t"}
    assert reply.along == {"targets/files/x": b"f"}


def test_place_that_does_not_fit_is_left_out_as_a_whole_and_a_smaller_one_comes() -> None:
    together = Together(most_bytes=1000)
    assert together.add("images", {"timestamp.json": b"t" * 400})
    assert not together.add("director/large", {"timestamp.json": b"t" * 10, "2.targets.json": b"t" * 500})
    assert together.add("director/small", {"timestamp.json": b"t" * 400})
    reply = together.reply()
    assert reply.whole == ("images", "director/small")
    assert set(reply.metadata) == {"images/metadata/timestamp.json", "director/small/metadata/timestamp.json"}


def test_place_of_which_all_is_held_is_whole_without_a_file() -> None:
    together = Together()
    together.add("images", {})
    assert (together.reply().whole, together.reply().metadata) == (("images",), {})


def test_places_say_whose_and_of_what_kind_they_are() -> None:
    assert devices_of(["images", "director/cam", "director/cam-2"]) == {"cam", "cam-2"}
    assert (device_of("director/cam"), kind_of("director/cam"), kind_of("images")) == ("cam", "director", "images")
