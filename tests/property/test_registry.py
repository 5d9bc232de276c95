"""Names: what is no variant is refused with the nearest variants, whatever it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_impls.registry import UnknownName, backends, load, load_backend, names

KNOWN = names()
NAMES = st.sampled_from(KNOWN)


@given(st.text(max_size=20).filter(lambda text: text not in KNOWN))
def test_any_other_text_is_refused(text: str) -> None:
    for lookup in (load, backends):
        with pytest.raises(UnknownName, match="no attention variant") as error:
            lookup(text)
        assert all(name in str(error.value) for name in KNOWN)


@given(NAMES, st.data())
def test_a_slip_of_the_finger_gets_the_name(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(name) - 1))
    slips = [
        name[:place] + name[place + 1 :],
        name[:place] + "x" + name[place + 1 :],
        name[:place] + "x" + name[place:],
        name.upper() if len(name) < 1 else name[:place] + name[place] * 2 + name[place + 1 :],
    ]
    slip = data.draw(st.sampled_from([s for s in slips if s not in KNOWN]))
    with pytest.raises(UnknownName) as error:
        load(slip)
    hint = str(error.value).split("Known:")[0]
    assert f"'{name}'" in hint, hint


@pytest.mark.parametrize("name", KNOWN)
def test_names_load_and_have_backends(name: str) -> None:
    assert load(name) is load(name)
    assert load(name).name == name
    assert backends(name)[:2] == ("reference", "compile")
    for backend in backends(name)[1:]:
        found = load_backend(name, backend)
        assert (found.variant, found.name) == (name, backend)


@given(NAMES, st.text(max_size=12))
def test_unknown_backends_are_refused(name: str, text: str) -> None:
    if text in backends(name)[1:]:
        return
    with pytest.raises(UnknownName, match=f"no backend of {name}"):
        load_backend(name, text)
