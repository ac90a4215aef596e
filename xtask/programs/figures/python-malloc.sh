# The same, with every object from malloc.
# needs: python3
export PYTHONMALLOC=malloc
exec "$PYTHON" - <<'P'
import json, re
d = {str(i): {"n": i, "words": ["w%d" % (i * j % 1000) for j in range(10)]} for i in range(20000)}
s = json.dumps(d); e = json.loads(s); assert e == d
t = " ".join(" ".join(v["words"]) for v in e.values())
c = {}
for w in re.findall(r"\w+", t): c[w] = c.get(w, 0) + 1
class P:
    def __init__(self, i): self.i, self.s = i, "x" * (i % 700)
o = [P(i) for i in range(60000)]
o.sort(key=lambda p: (p.s, -p.i))
b = bytearray()
for p in o: b += p.s.encode()
print(len(s), len(c), len(b), sorted(c.items(), key=lambda x: (-x[1], x[0]))[:3])
P
