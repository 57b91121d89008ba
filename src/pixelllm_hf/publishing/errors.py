"""What can go wrong between a folder and the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)


class PublishError(RuntimeError):
    """The folder or the request cannot be published as it is; nothing was sent."""


class AccessError(PublishError):
    """The Hub does not let this user in, or does not know who it is."""


class UploadError(PublishError):
    """The upload broke off. What had arrived is kept by the Hub and is not sent again."""


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """The client's exceptions as ours. what: a name for the message, e.g. "the model org/name"."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise AccessError(
            f"{what} cannot be published without a token. Log in with `hf auth login`, or set HF_TOKEN to a token that "
            "may write."
        ) from error
    except OfflineModeIsEnabled as error:
        raise AccessError(f"{what} cannot be published: offline mode is on. Unset HF_HUB_OFFLINE.") from error
    except HFValidationError as error:
        raise PublishError(
            f"{what} cannot be published: {_first_line(error)} A repository is called org/name."
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
            raise AccessError(
                f"{what} cannot be published with this token ({status}: {_first_line(error)}). Use a token that may "
                "write there, or another name."
            ) from error
        if status is not None and status < 500 and status != 429:
            raise PublishError(f"{what}: the Hub refused ({status}: {_first_line(error)}).") from error
        raise UploadError(_broken_off(what, error)) from error
    except (HTTPError, OSError) as error:
        raise UploadError(_broken_off(what, error)) from error
    except PublishError:
        raise
    except RuntimeError as error:  # the client wraps what befell a single large file
        raise UploadError(_broken_off(what, error.__cause__ or error, told=str(error))) from error
    except ValueError as error:
        raise PublishError(f"{what}: the client refused ({' '.join(str(error).split())[:300]}).") from error


def _broken_off(what: str, error: BaseException, told: str = "") -> str:
    reason = _first_line(error)
    if told and told != str(error):
        reason = f"{told.rstrip('.')}: {reason}"
    return (
        f"the upload of {what} broke off ({reason}). Run the same command again: large files that have arrived are "
        "not sent again."
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
