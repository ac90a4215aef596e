# This repository cloned, packed and checked.
# needs: git
git -c safe.directory='*' clone -q --no-hardlinks "file://$REPOSITORY" clone 2>/dev/null ||
    git -c safe.directory='*' clone -q --no-hardlinks "$REPOSITORY" clone || exit 1
cd clone && git gc -q --aggressive --prune=now && git fsck --full 2>&1 | grep -v dangling
git log --format=%H | head -50 && git ls-tree -r HEAD | sort
