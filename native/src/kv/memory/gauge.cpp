#include "kv/memory/gauge.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <vector>

#if defined(__APPLE__)
#    include <mach/mach.h>
#    include <sys/sysctl.h>
#elif defined(_WIN32)
#    ifndef NOMINMAX
#        define NOMINMAX
#    endif
#    include <windows.h>
#endif

namespace kvfold {

// ---- readings

#if defined(_WIN32)

memory_reading read_memory(const std::string &) {
    memory_reading reading;
    MEMORYSTATUSEX status;
    status.dwLength = sizeof(status);
    if (GlobalMemoryStatusEx(&status)) {
        reading.total     = status.ullTotalPhys;
        reading.available = std::min<uint64_t>(status.ullAvailPhys, status.ullAvailPageFile); // the latter is a limit on commits
        reading.addresses = status.ullAvailVirtual;
    }
    return reading;
}

#elif defined(__APPLE__)

memory_reading read_memory(const std::string &) {
    memory_reading         reading;
    uint64_t               total = 0;
    size_t                 size  = sizeof(total);
    vm_size_t              page  = 0;
    vm_statistics64_data_t pages = {};
    mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
    if (sysctlbyname("hw.memsize", &total, &size, nullptr, 0) == 0) {
        reading.total = total;
    }
    if (host_page_size(mach_host_self(), &page) == KERN_SUCCESS &&
        host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t) &pages, &count) == KERN_SUCCESS) {
        // free ones include the speculative ones; those of files can be read again
        reading.available = ((uint64_t) pages.free_count + pages.external_page_count + pages.purgeable_count)*page;
    }
    return reading;
}

#else

namespace {

using numbers = std::map<std::string, uint64_t>;

// Lines of a name and a number, as /proc/meminfo ("MemAvailable:  5 kB") and memory.stat ("inactive_file 5").
numbers read_numbers(const std::string & path) {
    numbers       found;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string        name, unit;
        uint64_t           value = 0;
        if (words >> name >> value) {
            words >> unit;
            name.erase(std::remove(name.begin(), name.end(), ':'), name.end());
            found[name] = unit == "kB" ? value*1024 : value;
        }
    }
    return found;
}

uint64_t get(const numbers & of, const char * name, uint64_t otherwise) {
    const auto found = of.find(name);
    return found == of.end() ? otherwise : found->second;
}

// False where there is none, and for "max".
bool read_number(const std::string & path, uint64_t & value) {
    std::ifstream file(path);
    return (bool) (file >> value);
}

uint64_t less(uint64_t a, uint64_t b) {
    return a - std::min(a, b);
}

struct group_files {
    const char * limit;
    const char * used;
    const char * prefix; // of the names in memory.stat that count the groups below as well
};

// One control group; of the root of version 2 there is nothing to read.
void read_group(const std::string & folder, const group_files & files, memory_reading & reading) {
    uint64_t limit = 0, used = 0;
    if (!read_number(folder + files.limit, limit) || !read_number(folder + files.used, used)) {
        return;
    }
    const numbers stat        = read_numbers(folder + "/memory.stat");
    uint64_t      reclaimable = 0;
    for (const char * name : { "inactive_file", "active_file", "slab_reclaimable" }) {
        reclaimable += get(stat, (std::string(files.prefix) + name).c_str(), 0);
    }
    reading.total     = std::min(reading.total, limit);
    reading.available = std::min(reading.available, less(limit, less(used, reclaimable)));
}

// From a group up to the root. Where the groups of a container are mounted as if they were the root, those in between are
// not found and the root is the container's.
void read_groups(std::string path, const std::string & mount, const group_files & files, memory_reading & reading) {
    while (!path.empty() && path != "/") {
        read_group(mount + path, files, reading);
        path.erase(path.rfind('/'));
    }
    read_group(mount, files, reading);
}

void read_groups(const std::string & root, memory_reading & reading) {
    const std::string mount = root + "/sys/fs/cgroup";
    std::ifstream     file(root + "/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) { // number:controllers:path
        const size_t first  = line.find(':');
        const size_t second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) {
            continue;
        }
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const std::string path        = line.substr(second + 1);
        if (controllers == ",,") {
            read_groups(path, mount, { "/memory.max", "/memory.current", "" }, reading);
        } else if (controllers.find(",memory,") != std::string::npos) {
            read_groups(path, mount + "/memory", { "/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_" }, reading);
        }
    }
}

// "Max address space    1024    2048    bytes"
uint64_t read_limit(const std::string & path, const std::string & name) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        uint64_t value = 0;
        if (line.rfind(name, 0) == 0 && std::istringstream(line.substr(name.size())) >> value) {
            return value;
        }
    }
    return memory_reading::unknown;
}

} // namespace

memory_reading read_memory(const std::string & root) {
    memory_reading reading;
    const numbers  machine = read_numbers(root + "/proc/meminfo");
    reading.total     = get(machine, "MemTotal", memory_reading::unknown);
    reading.available = get(machine, "MemAvailable", memory_reading::unknown);
    read_groups(root, reading);

    const numbers own = read_numbers(root + "/proc/self/status");
    for (const auto & [limit, used] : { std::pair("Max address space", "VmSize"), std::pair("Max data size", "VmData") }) {
        const uint64_t most = read_limit(root + "/proc/self/limits", limit);
        if (most != memory_reading::unknown) {
            reading.addresses = std::min(reading.addresses, less(most, get(own, used, 0)));
        }
    }
    return reading;
}

#endif

// ---- grants

uint64_t gauge::default_reserve(const memory_reading & reading) {
    const uint64_t least = uint64_t(256) << 20;
    return reading.total == memory_reading::unknown ? least : std::max(least, reading.total/100*3);
}

gauge::gauge(uint64_t reserve, std::function<memory_reading()> read, std::function<clock::time_point()> now)
    : read(std::move(read)), now(std::move(now)) {
    refresh();
    n_reserve = reserve > 0 ? reserve : default_reserve(reading);
}

void gauge::keep(uint64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    n_kept = bytes;
}

void gauge::refresh() {
    reading   = read();
    read_at   = now();
    n_granted = 0;
}

static uint64_t less_of(uint64_t bytes, uint64_t taken) {
    return bytes == memory_reading::unknown ? bytes : bytes - std::min(bytes, taken);
}

uint64_t gauge::left(bool mapped) const {
    const uint64_t memory    = less_of(reading.available, n_granted + n_kept + n_reserve);
    const uint64_t addresses = mapped ? memory_reading::unknown : less_of(reading.addresses, n_granted);
    return std::min(memory, addresses);
}

uint64_t gauge::grantable(bool mapped) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (now() - read_at > max_age) {
        refresh();
    }
    return left(mapped);
}

uint64_t gauge::addresses() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (now() - read_at > max_age) {
        refresh();
    }
    return less_of(reading.addresses, n_granted);
}

bool gauge::take(uint64_t bytes, bool mapped) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (now() - read_at > max_age || n_granted + bytes > max_granted || left(mapped) < bytes) {
        refresh();
    }
    if (left(mapped) < bytes) {
        return false;
    }
    n_granted += bytes;
    return true;
}

} // namespace kvfold
