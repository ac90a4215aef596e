# A script of threads, children and a fork.
# needs: python3
python3 - <<'P'
import json, os, subprocess, threading
def work(n, out):
    d = {i: str(i) * (i % 50 + 1) for i in range(5000)}
    s = json.dumps(d)
    out[n] = (len(s), sum(map(len, json.loads(s).values())))
out = {}
threads = [threading.Thread(target=work, args=(i, out)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(out.items()))
print(subprocess.check_output(["echo", "child"]))
pid = os.fork()
if pid == 0:
    work(0, out); os._exit(0)
print(os.waitpid(pid, 0)[1])
P
