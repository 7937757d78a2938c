"""What the Python client knows of the API: every operation of its classes, told by the classes themselves.

Each method is called with a client that sends nothing and notes what would be sent; so a new version of the client
brings its new operations along, and nobody has to keep a list.
"""
import inspect
import re
import typing
from dataclasses import dataclass

from kubernetes import client


@dataclass(frozen=True)
class Operation:
    """One method of one class, such as `CoreV1Api.read_namespaced_pod`."""
    api: str
    name: str
    verb: str
    path: str
    query: frozenset
    body: str
    """The name of the type of what is sent, or nothing."""
    sends: frozenset
    """Content types that a body may have, where the client names them: of patches."""
    accepts: frozenset
    answers: dict
    """The name of the answer's type by status code, `None` where it has none."""

    def __hash__(self):
        return hash((self.api, self.name))

    def __str__(self):
        return f"{self.api}.{self.name}"

    @property
    def path_parameters(self):
        return re.findall(r"\{(\w+)\}", self.path)


class _Notepad:
    """Stands in for the `ApiClient` of a class, and sends nothing."""

    def __init__(self):
        self.content_types = []

    @staticmethod
    def select_header_accept(types):
        return types

    def select_header_content_type(self, types):
        self.content_types = types

    @staticmethod
    def param_serialize(**request):
        return request

    @staticmethod
    def _call_with_legacy_options(request, answers, *_):
        return request, answers


# Parameters of every method, which are about the call and not about what is sent.
_OF_THE_CALL = {"self", "async_req", "_return_http_data_only", "_preload_content", "_request_timeout", "_request_auth",
                "_content_type", "_headers", "_host_index"}


def _type_name(annotation):
    """The name of a type, also of one that may be left out or has a description."""
    [named, *_] = [each for each in typing.get_args(annotation) if each is not type(None)] or [annotation]
    return named.__name__ if isinstance(named, type) else _type_name(named)


def _operation(api, name, method):
    method = method.__wrapped__  # Without the checks of the arguments' types.
    parameters = inspect.signature(method).parameters
    notepad = _Notepad()
    wanted = {name: name for name in parameters if name not in _OF_THE_CALL}
    request, answers = method(api(notepad), **wanted, _headers={})
    return Operation(
        api=api.__name__, name=name, verb=request["method"], path=request["resource_path"],
        query=frozenset(key for key, _ in request["query_params"]),
        body="" if request["body"] is None else _type_name(parameters["body"].annotation),
        sends=frozenset(notepad.content_types), accepts=frozenset(request["header_params"].get("Accept", [])),
        answers=answers)


def stable_operations():
    """The operations of all classes but those of alpha and beta versions."""
    operations = []
    for api_name, api in inspect.getmembers(client, inspect.isclass):
        if not api_name.endswith("Api") or re.search(r"V\d+(alpha|beta)\d+Api$", api_name):
            continue
        for name, method in inspect.getmembers(api, inspect.isfunction):
            if not (name.startswith("_") or name.endswith("_with_http_info") or name == "close"):
                operations.append(_operation(api, name, method))
    assert len(operations) > 700, f"only {len(operations)} operations: are the client's classes made differently now?"
    return operations
