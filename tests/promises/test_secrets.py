"""Users, passwords and signatures in URLs are used, and neither shown nor stored."""

import contextlib
import logging
import traceback
import warnings
from pathlib import Path
from urllib.parse import quote

import dask
import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st
from naive import label
from outcomes import assert_same_objects, blobs, write_image
from web import PASSWORD, USER, served

from blockbuster import TileError, plan_run, read_report, tile_process
from blockbuster.errors import hide_secrets, show_url
from blockbuster.source.location import locate

pytest.importorskip("aiohttp")
MASK = blobs((40, 50))
TILES = {"tile_shape": (16, 16), "overlap": 2}
SECRETS = (USER, PASSWORD)


@pytest.fixture
def server(tmp_path):
    """Of an image, image.zarr; what a test writes goes to another folder."""
    write_image(tmp_path / "served" / "image.zarr", MASK, "yx")
    with served(tmp_path / "served") as server:
        yield server


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def assert_hidden(*texts, secrets=SECRETS, folder=None):
    """Assert that no secret is in any text, nor in any file, nor in the name of one."""
    for path in folder.rglob("*") if folder else ():
        texts = (*texts, str(path), path.read_bytes().decode("latin-1") if path.is_file() else "")
    for text in texts:
        found = [secret for secret in secrets if secret in text]
        assert not found, f"{found} in: {text[:2000]}"


def shown(error):
    """All that Python prints of an error nobody catches."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_F36_a_run_shows_and_stores_no_password_of_its_url(scheduler, server, here, caplog, capfd):
    caplog.set_level(logging.DEBUG, "blockbuster")
    address = f"{server.url}/other.zarr"

    def find(tile):
        assert PASSWORD in address
        return label(tile)

    options = {**TILES, "write_to": here / "out.zarr", "stage_dir": here / "stage", "fn_version": "1"}
    with dask.config.set(scheduler=scheduler, num_workers=2):
        labels, report = tile_process(
            f"{server.url}/image.zarr", find, **options, progress=True, keep_stage=True, return_report=True
        )
    assert_same_objects(labels, label(MASK))
    stored = read_report(here / "out.zarr")
    said = capfd.readouterr()
    assert_hidden(caplog.text, *said, str(report), report._repr_html_(), stored.to_json(), folder=here)
    plan = plan_run(f"{server.url}/image.zarr", **TILES)
    assert_hidden(str(plan), repr(plan.settings), repr(plan.source), repr(locate(server.url)))
    assert f"http://{server.place}/image.zarr" in str(plan)


def broken_urls(place):
    """URLs with secrets that cannot be read, and the class of the error."""
    return {
        "missing": (f"http://{USER}:{PASSWORD}@{place}/missing.zarr", FileNotFoundError),
        "wrong password": (f"http://{USER}:wrong{PASSWORD}@{place}/image.zarr", OSError),
        "query": (f"http://{USER}:{PASSWORD}@{place}/image.zarr?X-Amz-Signature=s3cr3tsignature", ValueError),
        "no server": (f"http://{USER}:{PASSWORD}@127.0.0.1:1/a.zarr", OSError),
        "unknown": (f"nonsense://{USER}:{PASSWORD}@bucket/a.zarr", ValueError),
        "chain": (f"simplecache::nonsense://{USER}:{PASSWORD}@bucket/a.zarr", ValueError),
        "memory": (f"memory://{USER}:{PASSWORD}@bucket/a.zarr", FileNotFoundError),
    }


@pytest.mark.parametrize("name", broken_urls(""))
def test_F36_an_image_that_cannot_be_opened_is_named_without_its_secrets(name, server, here, capfd):
    url, kind = broken_urls(server.place)[name]
    secrets = (*SECRETS, "s3cr3tsignature")
    with warnings.catch_warnings(record=True, action="always") as warned, pytest.raises(kind) as caught:
        tile_process(url, label, **TILES, write_to=here / "out.zarr")
    text = shown(caught.value)
    assert str(caught.value).startswith(f"image {show_url(url)} ")
    assert_hidden(text, *(str(warning.message) for warning in warned), secrets=secrets)
    # Nobody else's frames, of which there are ninety.
    assert "site-packages" not in text
    for command in (f"info '{url}'", f"segment '{url}' --fn otsu --write-to out.zarr", f"info '{url}' '{url}'"):
        with contextlib.suppress(SystemExit):
            assert run(command) == 2
    assert_hidden(*capfd.readouterr(), secrets=secrets, folder=here)


def test_F36_the_remedy_for_a_store_is_named(server):
    with pytest.raises(OSError, match=r"ClientResponseError: 401.*server can be reached.*finds the credentials"):
        plan_run(f"http://{server.place}/image.zarr")


def test_F36_a_key_of_s3_is_not_shown(monkeypatch):
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    url = "s3://AKIAWHOAMI:half1key/half2key@bucket/a.zarr"
    with pytest.raises(OSError, match="image s3://bucket/a.zarr cannot be read") as caught:
        plan_run(url)
    assert_hidden(shown(caught.value), secrets=("AKIAWHOAMI", "half1key", "half2key"))


def test_F36_a_store_that_fails_during_the_run_is_named_without_secrets(server, here, caplog):
    caplog.set_level(logging.DEBUG, "blockbuster")

    def breaks(tile):
        server.is_broken = True
        return label(tile)

    options = {**TILES, "write_to": here / "out.zarr", "tiles_per_task": 1, "fn_version": "1"}
    with pytest.raises(TileError, match=r"reading the image raised OSError.*ClientResponseError: 503") as caught:
        tile_process(f"{server.url}/image.zarr", breaks, **options)
    assert_hidden(shown(caught.value), caplog.text, folder=here)
    assert "site-packages/aiohttp" not in shown(caught.value)
    server.is_broken = False
    with pytest.warns(UserWarning, match="tiles failed") as warned:
        tile_process(f"{server.url}/image.zarr", breaks, **options, on_error="skip", overwrite=True)
    report = read_report(here / "out.zarr")
    assert report.n_failed
    assert_hidden(report.to_json(), *(str(warning.message) for warning in warned), caplog.text, folder=here)


def test_F36_an_error_of_fn_that_names_a_url_is_shown_without_its_secrets(server, here):
    url = f"{server.url}/weights?token=t0ken-of-mine"

    def fails(tile):
        raise OSError(f"cannot fetch {url}")

    with pytest.raises(TileError, match=f"cannot fetch http://{server.place}/weights") as caught:
        tile_process(MASK, fails, **TILES)
    assert_hidden(str(caught.value), caught.value.cause_text, caught.value.cause_traceback)
    assert_hidden(str(caught.value), secrets=["t0ken-of-mine"])


def test_F36_the_command_that_continues_is_shown_without_secrets(server, here, capfd):
    (here / "last_fails.py").write_text(
        "def fails(tile):\n    return 0 * tile if tile.shape != (8, 2) else None\n"
    )
    options = "--tile-shape 16,16 --tiles-per-task 1 --write-to out.zarr --scheduler synchronous"
    assert run(f"segment {server.url}/image.zarr --fn last_fails:fails {options}") == 1
    said = capfd.readouterr()
    assert f"To continue: blockbuster segment http://{server.place}/image.zarr --fn" in said.err
    assert_hidden(*said)


@pytest.mark.parametrize("argument", ["write_to", "stage_dir"])
def test_F36_a_url_where_a_path_is_needed_is_shown_without_secrets(argument):
    with pytest.raises(ValueError, match=f"{argument} is 's3://bucket/out'") as caught:
        tile_process(MASK, label, **TILES, **{argument: f"s3://{USER}:{PASSWORD}@bucket/out?{PASSWORD}"})
    assert_hidden(shown(caught.value))


def test_F36_a_report_behind_a_url_is_refused_without_showing_secrets():
    with pytest.raises(ValueError, match=r"'s3://bucket/out'; reports are read from a file system") as caught:
        read_report(Path(f"s3://{USER}:{PASSWORD}@bucket/out").as_posix().replace("s3:/", "s3://"))
    assert_hidden(shown(caught.value))


@given(st.text(min_size=1), st.text(min_size=4), st.sampled_from(["", ":8000"]), st.text())
def test_F36_of_a_url_only_scheme_host_and_path_are_shown(user, password, port, value):
    secret, signature = quote(f"{user}:{password}", safe=":"), quote(value, safe="")
    url = f"https://{secret}@host{port}/a%20b@1.zarr?sig={signature}#{signature}"
    assert show_url(url) == f"https://host{port}/a%20b@1.zarr"
    assert show_url(f"zip://in.zarr::{url}") == f"zip://in.zarr::https://host{port}/a%20b@1.zarr"
    assert hide_secrets(f"cannot get <{url}>") == f"cannot get <https://host{port}/a%20b@1.zarr>"


@pytest.mark.parametrize("text", ["", "/a?b#c@d", "C:/a b", "memory://a/b.zarr", "http://[::1]:80/a@b", "a::b"])
def test_F36_what_holds_no_secret_is_shown_as_it_is(text):
    assert show_url(text) == hide_secrets(text) == text


@pytest.mark.parametrize(
    "secret", ["key1:half1/half2", "key1:half1?half2", "key1:half1#@half2", "key1", "key1:'half1\"half2"]
)
def test_F36_a_secret_that_should_have_been_encoded_is_not_shown_either(secret):
    url = f"s3://{secret}@bucket/x"
    assert show_url(url) == "s3://bucket/x"
    said = hide_secrets(f"no {url}, {url!r}, no bucket {secret}, {secret!r}, {secret.partition('/')[0]}", url)
    assert_hidden(said, secrets=("key1", "half1", "half2"))


@pytest.mark.parametrize("quote", ["'", '"'])
def test_F36_a_secret_with_quotes_is_hidden_where_its_url_is_not_known(quote):
    secret = f"half1{quote}half2"
    for url in (f"https://key1:{secret}@host/a", f"https://host/a?sig={secret}"):
        said = hide_secrets(f"no {url}, <{url}>, {url!r}; {{'url': {url!r}, 'host': 'me'}}")
        assert_hidden(said, secrets=("key1", "half1", "half2"))
        assert said.count("https://host/a") == 4
        assert said.endswith("'host': 'me'}")


def test_F36_a_long_text_without_blanks_is_gone_through_once():
    # A million letters took a quarter of an hour.
    text = "a" * 1_000_000 + f"://{USER}:{PASSWORD}@host/b"
    assert hide_secrets(text) == "a" * 1_000_000 + "://host/b"
