/* Records what a process writes to its journals and when it syncs them: LD_PRELOAD it, and name the log in POWER_LOG.
 *
 * A record is {op, path length, offset, data length}, the path, the data. A write is recorded before it happens, a
 * sync after it has happened: so the log never says that something is safe which is not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

struct header { uint32_t op, path_length; uint64_t offset, length; };
enum { WRITE = 1, TRUNCATE = 2, SYNC = 3, UNLINK = 4 };

static int log_fd = -1;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("POWER_LOG");
    if (name) log_fd = open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

static int is_journal(const char *path) {
    const char *name = strrchr(path, '/');
    return name && !strncmp(name, "/shard-", 7) && strstr(name, ".db");
}

static void put(uint32_t op, const char *path, uint64_t offset, const void *data, uint64_t length) {
    struct header header = {op, (uint32_t)strlen(path), offset, length};
    struct iovec parts[3] = {
        {&header, sizeof header}, {(void *)path, header.path_length}, {(void *)data, data ? length : 0}};
    if (writev(log_fd, parts, 3) < 0) abort();
}

static void record(uint32_t op, int fd, uint64_t offset, const void *data, uint64_t length) {
    char link[32], path[4096];
    if (log_fd < 0) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0) return;
    path[size] = 0;
    if (is_journal(path)) put(op, path, offset, data, length);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    record(WRITE, fd, offset, data, length);
    return REAL(pwrite)(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    record(WRITE, fd, offset, data, length);
    return REAL(pwrite64)(fd, data, length, offset);
}

ssize_t write(int fd, const void *data, size_t length) {
    record(WRITE, fd, lseek(fd, 0, SEEK_CUR), data, length);
    return REAL(write)(fd, data, length);
}

int ftruncate(int fd, off_t length) {
    record(TRUNCATE, fd, length, NULL, 0);
    return REAL(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    record(TRUNCATE, fd, length, NULL, 0);
    return REAL(ftruncate64)(fd, length);
}

int fsync(int fd) {
    int result = REAL(fsync)(fd);
    if (!result) record(SYNC, fd, 0, NULL, 0);
    return result;
}

int fdatasync(int fd) {
    int result = REAL(fdatasync)(fd);
    if (!result) record(SYNC, fd, 0, NULL, 0);
    return result;
}

int unlink(const char *path) {
    if (log_fd >= 0 && is_journal(path)) put(UNLINK, path, 0, NULL, 0);
    return REAL(unlink)(path);
}
