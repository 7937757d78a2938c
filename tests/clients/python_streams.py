"""The Python client's streams into pods: exec, attach and port-forward. Ends with `ok`, or with the assertion that failed.

Needs KUBECONFIG, and the pods `worker` (which ticks), `copies` (which copies its input) and `web` (which serves on 8080).
"""
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward, stream

config.load_kube_config()
core = client.CoreV1Api()
DEADLINE = 60


def execute(pod, command, **options):
    settings = {"stdin": False, "stdout": True, "stderr": True, "tty": False} | options
    return stream(core.connect_get_namespaced_pod_exec, pod, "default", command=command, **settings)


def a_program_says_what_it_says():
    text = execute("worker", ["worker", "primes", "100"])
    assert text == "counting primes below 100\nthere are 25\n", text


def a_program_tells_how_it_ended():
    session = execute("worker", ["worker", "exit", "7"], container="main", _preload_content=False)
    session.run_forever(timeout=DEADLINE)
    assert session.returncode == 7, session.returncode
    assert session.read_stderr().startswith("leaving with exit code 7\n")
    fine = execute("worker", ["worker", "primes", "10"], _preload_content=False)
    fine.run_forever(timeout=DEADLINE)
    assert fine.returncode == 0, fine.returncode


def a_program_is_spoken_to():
    session = execute("copies", ["copy", "it"], stdin=True, _preload_content=False)
    for line in ("hello", "käse"):
        session.write_stdin(line + "\n")
        said = session.readline_stdout(timeout=DEADLINE)
        assert said == line, said
    # The end of what is said ends the program, which tells how many arguments it had.
    session.close_channel(0)
    session.run_forever(timeout=DEADLINE)
    assert session.returncode == 2, session.returncode


def what_cannot_be_is_said_to_be_so():
    for pod, options, expected in (
        ("worker", {"container": "none"}, "container none is not valid for pod worker"),
        ("nobody", {}, "not found"),
    ):
        try:
            execute(pod, ["x"], **options)
        except ApiException as error:
            assert expected in str(error), error
        else:
            raise AssertionError(f"{pod} was not refused")


def what_runs_is_heard():
    session = stream(core.connect_get_namespaced_pod_attach, "worker", "default", stdout=True, stderr=True,
                     stdin=False, tty=False, _preload_content=False)
    line = session.readline_stdout(timeout=DEADLINE)
    assert line.startswith("tick "), line
    session.close()


def a_port_is_forwarded():
    forward = portforward(core.connect_get_namespaced_pod_portforward, "web", "default", ports="8080")
    socket = forward.socket(8080)
    socket.setblocking(True)
    socket.settimeout(DEADLINE)
    socket.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := socket.recv(4096):
        answer += piece
    socket.close()
    assert answer.startswith(b"HTTP/1.1 200") and b"served by web" in answer, answer
    assert forward.error(8080) is None, forward.error(8080)


for story in (a_program_says_what_it_says, a_program_tells_how_it_ended, a_program_is_spoken_to,
              what_cannot_be_is_said_to_be_so, what_runs_is_heard, a_port_is_forwarded):
    print(story.__name__, flush=True)
    story()
print("ok", flush=True)
