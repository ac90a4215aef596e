# C and C++ compiled: a real file each, the same code out.
# needs: gcc g++
gcc -O2 -c "$REPOSITORY/crates/buddy-slab-malloc-c/tests/c/api.c" -o api.o && cksum < api.o
cat > program.cc <<'P'
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
struct alignas(256) Wide { char bytes[256]; };
static int thrown(int depth) {
    try {
        if (depth == 0) throw std::runtime_error(std::string(1000, 'x'));
        return thrown(depth - 1);
    } catch (const std::logic_error &) { return -1; }
}
int main() {
    int caught = 0;
    for (int i = 0; i < 1000; i++) try { thrown(i % 20); } catch (const std::exception &e) { caught += std::string(e.what()).size() == 1000; }
    try { std::vector<char> v; v.reserve(std::size_t(1) << 62); } catch (const std::bad_alloc &) { caught++; } catch (const std::length_error &) { caught++; }
    try { volatile std::size_t n = std::size_t(1) << 62; delete[] new char[n]; } catch (const std::bad_alloc &) { caught++; }
    static int asked; asked = 0;
    std::set_new_handler([] { if (++asked == 3) std::set_new_handler(nullptr); });
    try { volatile std::size_t n = std::size_t(1) << 62; delete[] new char[n]; } catch (const std::bad_alloc &) { caught++; }
    std::vector<std::unique_ptr<Wide>> wides;
    bool aligned = true;
    for (int i = 0; i < 1000; i++) { wides.emplace_back(new Wide); aligned &= (reinterpret_cast<std::uintptr_t>(wides.back().get()) % 256) == 0; }
    std::vector<long> sums(100);
    for (int i = 0; i < 100; i++) std::thread([&sums, i] { std::map<int, std::string> m; for (int j = 0; j < 500; j++) m[j * 7 % 500] = std::string(j, 'y'); for (auto &p : m) sums[i] += p.second.size(); }).join();
    std::regex r("(a+)(b+)"); std::smatch match; std::string text = "xxaaabbyy";
    std::cout << caught << asked << aligned << sums[0] << sums[99] << std::regex_search(text, match, r) << match[1] << "\n";
}
P
g++ -O1 -std=c++17 -pthread program.cc -o program && ./program
