# Python's own tests of what allocates most, and of threads and children.
# needs: python3
# prints which passed: names only, since times differ.
tests="test_json test_dict test_list test_threading test_subprocess"
have=$(python3 -c 'import importlib.util as u, sys
print(" ".join(t for t in sys.argv[1:] if u.find_spec("test." + t)))' $tests 2>/dev/null)
[ -n "$have" ] || { echo "python3 has none of its tests" >&2; exit 77; }
[ "$LONG" = 1 ] || have=$(echo $have | sed 's/test_threading//; s/test_subprocess//')
python3 -m test -q $have 2>&1 | grep -E '^(Result|  *test_|[0-9]+ tests? (failed|OK))' | grep -v ms
