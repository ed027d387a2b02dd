/* Makes one call of fsync or write fail, as a bad disk does: loaded with LD_PRELOAD into the real
 * program. HEADSTART_FAULT=CALL:N:ERRNO fails the N-th such call on a file below a folder that is
 * called `features`, and every later one of write. HEADSTART_FAULT_COUNT=FILE: a byte a call is
 * appended to FILE instead. With the CALL open it is the first N calls that fail, of those that
 * open a shard for reading whose path ends in HEADSTART_FAULT_NAME. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long calls;

static int in_store(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return path[0] == '/' && strstr(path, "/features/") != NULL;
}

static int fails(const char *call, int fd, int forever) {
    const char *fault = getenv("HEADSTART_FAULT");
    size_t length = strlen(call);
    if (!fault || strncmp(fault, call, length) || fault[length] != ':' || !in_store(fd)) return 0;
    long wanted = 0;
    int error = EIO;
    sscanf(fault + length + 1, "%ld:%d", &wanted, &error);
    long now = atomic_fetch_add(&calls, 1) + 1;
    const char *count = getenv("HEADSTART_FAULT_COUNT");
    if (count) {
        int to = open(count, O_WRONLY | O_CREAT | O_APPEND, 0600);
        syscall(SYS_write, to, ".", 1);
        close(to);
        return 0;
    }
    if (now != wanted && !(forever && now > wanted)) return 0;
    errno = error;
    return 1;
}

int fsync(int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return fails("fsync", fd, 0) ? -1 : next(fd);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    ssize_t (*next)(int, const void *, size_t) =
        (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return fails("write", fd, 1) ? -1 : next(fd, bytes, length);
}

static int open_fails(const char *path, int flags) {
    const char *fault = getenv("HEADSTART_FAULT"), *name = getenv("HEADSTART_FAULT_NAME");
    if (!fault || strncmp(fault, "open:", 5) || (flags & O_ACCMODE) != O_RDONLY) return 0;
    if (!strstr(path, "/features/") || !strstr(path, "/shard-")) return 0;
    size_t all = strlen(path), end = name ? strlen(name) : 0;
    if (end > all || strcmp(path + all - end, name ? name : "")) return 0;
    long wanted = 0;
    int error = EIO;
    sscanf(fault + 5, "%ld:%d", &wanted, &error);
    if (atomic_fetch_add(&calls, 1) >= wanted) return 0;
    errno = error;
    return 1;
}

static int opened(const char *call, const char *path, int flags, va_list rest) {
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, call);
    int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;
    return open_fails(path, flags) ? -1 : next(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int fd = opened("open", path, flags, rest);
    va_end(rest);
    return fd;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int fd = opened("open64", path, flags, rest);
    va_end(rest);
    return fd;
}
