"""The file that keeps an account."""

import json

from hypothesis import given
from hypothesis import strategies as st

from aiagentchat.matrix.accounts import Account, parse_account, render_account
from aiagentchat.model import UserId
from tests.unit.test_content import JSON

text = st.text(min_size=1)
users = st.from_regex(r"@[^:]*:.+", fullmatch=True).map(UserId)
accounts = st.builds(Account, users, text, text, st.text(), st.text())


@given(accounts)
def test_what_is_kept_is_read_again(account: Account) -> None:
    assert parse_account(render_account(account)) == account


@given(
    st.text()
    | st.dictionaries(
        st.sampled_from(["homeserver_url", "user_id", "device_id", "access_token", "refresh_token"]), JSON
    ).map(json.dumps)
)
def test_whatever_a_file_holds_it_is_an_account_or_none(kept: str) -> None:
    account = parse_account(kept)
    assert account is None or parse_account(render_account(account)) == account
