"""What schemathesis must not ask for: answers that never end."""

import schemathesis


@schemathesis.hook
def before_call(context, case, **kwargs):
    for endless in ("watch", "follow"):
        if case.query and endless in case.query:
            case.query.pop(endless)
