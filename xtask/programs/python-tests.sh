# Python's own tests of what allocates most, and of threads and children.
# needs: python3
# prints which passed: names only, since times differ.
tests="test_json test_dict test_list test_threading test_subprocess"
have=$(python3 -c 'import importlib.util as u, sys
print(" ".join(t for t in sys.argv[1:] if u.find_spec("test." + t)))' $tests 2>/dev/null)
[ -n "$have" ] || { echo "python3 has none of its tests" >&2; exit 77; }
# Most of their time they wait: at once they take as long as the slowest.
python3 -m test -j 5 $have 2>&1 |
    sed -nE 's/^.*\] (test_[a-z]+) (passed|failed|crashed|timed out|run no tests|skipped).*/\1 \2/p; s/^(Result|Tests result): /result: /p' | sort -u
