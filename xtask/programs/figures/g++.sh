# A C++ file that includes much of the library.
# needs: g++
cat > many.cc <<'P'
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>
int main() {
    std::map<std::string, std::vector<std::unique_ptr<int>>> m;
    std::unordered_map<int, std::function<int(int)>> f;
    for (int i = 0; i < 100; i++) { m[std::to_string(i)].push_back(std::make_unique<int>(i)); f[i] = [i](int x) { return x + i; }; }
    std::regex r("(a+)(b+)"); std::smatch match; std::string text = "xxaaabbyy";
    std::thread([&] { std::cout << std::regex_search(text, match, r); }).join();
    std::vector<std::string> v; for (auto &p : m) v.push_back(p.first); std::sort(v.begin(), v.end(), [](auto &a, auto &b) { return a.size() < b.size(); });
    std::cout << v.size() << f[3](4) << "\n";
}
P
exec g++ -O1 -std=c++17 -c many.cc -o many.o
