"""The Python side of a bench: one JSON object a line from standard input, one a line back. `do` names a method of the server. A failure is an answer,
never the end."""
import json
import os
import sys
import traceback


def serve(make, log):
    """Answers with the methods of make(), or why there is no server where a package is missing. What libraries print goes to the file `log`."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        server, missing = make(), None
    except ImportError as error:
        server, missing = None, f"no {error.name} here" if error.name else str(error)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"missing": missing, "failed": missing} if server is None else server.answer(request)
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        answers.write(json.dumps(answer) + "\n")
        if "CUDA error" in (answer.get("failed") or ""):
            sys.exit(1)  # the context is gone: the runner starts another
