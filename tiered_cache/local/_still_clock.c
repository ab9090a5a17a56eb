/* A monotonic clock that stands still while its process is frozen. Preloaded into the local Lambda's containers.

   The file named by TIERED_CACHE_STILL_CLOCK holds nanoseconds (int64, mapped): how long the process has stood still so
   far. Whoever continues the process adds to it first. They are taken off CLOCK_MONOTONIC, _RAW and _COARSE.

   A wait whose end was reckoned by that clock has to end by it too, so these take the pauses into account: nanosleep,
   clock_nanosleep, sem_clockwait, pthread_cond_timedwait and pthread_cond_clockwait where the clock is one of those
   above, poll, select, epoll_wait. Not covered: system calls made without the C library (Go, some Rust), ppoll, pselect,
   timerfd and POSIX timers, pthread_mutex_clocklock, sockets' own SO_RCVTIMEO. CLOCK_BOOTTIME is left as it is. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
/* glibc marks a condition variable that waits by CLOCK_MONOTONIC with this bit of __wrefs. */
#define COND_MONOTONIC 2u

static const int64_t zero;
static const volatile int64_t *stood_still = &zero;

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_clock_nanosleep)(clockid_t, int, const struct timespec *, struct timespec *);
static int (*real_sem_clockwait)(sem_t *, clockid_t, const struct timespec *);
static int (*real_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_cond_clockwait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static int (*real_poll)(struct pollfd *, nfds_t, int);
static int (*real_select)(int, fd_set *, fd_set *, fd_set *, struct timeval *);
static int (*real_epoll_wait)(int, struct epoll_event *, int, int);

__attribute__((constructor)) static void begin(void) {
    real_clock_nanosleep = dlsym(RTLD_NEXT, "clock_nanosleep");
    real_sem_clockwait = dlsym(RTLD_NEXT, "sem_clockwait");
    /* x86-64 has an older one too, of another layout. */
    real_cond_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_cond_timedwait) real_cond_timedwait = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_cond_clockwait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    real_poll = dlsym(RTLD_NEXT, "poll");
    real_select = dlsym(RTLD_NEXT, "select");
    real_epoll_wait = dlsym(RTLD_NEXT, "epoll_wait");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");

    const char *path = getenv("TIERED_CACHE_STILL_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *stood_still, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) stood_still = mapped;
    close(file);
}

static int stops(clockid_t clock) {
    return clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_MONOTONIC_COARSE;
}

static int64_t nanoseconds(const struct timespec *time) {
    return (int64_t)time->tv_sec * SECOND + time->tv_nsec;
}

static struct timespec timespec_of(int64_t nanoseconds) {
    struct timespec time = {nanoseconds / SECOND, nanoseconds % SECOND};
    return time;
}

/* `end` by our clock, as the kernel's clock will show it if there is no further pause. */
static struct timespec by_the_kernel(const struct timespec *end) {
    return timespec_of(nanoseconds(end) + *stood_still);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return nanoseconds(&time);
}

static int early(const struct timespec *end) {
    return now() < nanoseconds(end);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    /* The coarse one lags behind by up to a tick; with the exact length of a pause taken off it would go back. */
    if (clock == CLOCK_MONOTONIC_COARSE) clock = CLOCK_MONOTONIC;
    /* Other libraries' constructors may ask before ours has run. */
    int result = real_clock_gettime ? real_clock_gettime(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && stops(clock)) *time = timespec_of(nanoseconds(time) - *stood_still);
    return result;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
    /* A relative sleep by CLOCK_REALTIME is by the monotonic clock too (clock_nanosleep(2)). */
    int relative = !(flags & TIMER_ABSTIME);
    if (!stops(clock) && !(relative && clock == CLOCK_REALTIME)) return real_clock_nanosleep(clock, flags, wanted, left);
    if (wanted->tv_sec < 0 || wanted->tv_nsec < 0 || wanted->tv_nsec >= SECOND) return EINVAL;
    struct timespec end = relative ? timespec_of(now() + nanoseconds(wanted)) : *wanted;
    int result;
    do {
        struct timespec kernels = by_the_kernel(&end);
        result = real_clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &kernels, NULL);
    } while (result == 0 && early(&end));
    if (result == EINTR && relative && left) {
        int64_t missing = nanoseconds(&end) - now();
        *left = timespec_of(missing > 0 ? missing : 0);
    }
    return result;
}

int nanosleep(const struct timespec *wanted, struct timespec *left) {
    int result = clock_nanosleep(CLOCK_MONOTONIC, 0, wanted, left);
    if (result == 0) return 0;
    errno = result;
    return -1;
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *end) {
    if (!stops(clock)) return real_sem_clockwait(semaphore, clock, end);
    int result;
    do {
        struct timespec kernels = by_the_kernel(end);
        result = real_sem_clockwait(semaphore, clock, &kernels);
    } while (result != 0 && errno == ETIMEDOUT && early(end));
    return result;
}

/* A condition variable may wake for no reason (POSIX), which is what a wait that ends too early does here. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *end) {
    if (!(condition->__data.__wrefs & COND_MONOTONIC)) return real_cond_timedwait(condition, mutex, end);
    struct timespec kernels = by_the_kernel(end);
    int result = real_cond_timedwait(condition, mutex, &kernels);
    return result == ETIMEDOUT && early(end) ? 0 : result;
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *end) {
    if (!stops(clock)) return real_cond_clockwait(condition, mutex, clock, end);
    struct timespec kernels = by_the_kernel(end);
    int result = real_cond_clockwait(condition, mutex, clock, &kernels);
    return result == ETIMEDOUT && early(end) ? 0 : result;
}

/* Milliseconds until `end`, rounded up: what is left of a wait that a pause has cut short; 0 if it was not. */
static int left_of(int64_t end, int64_t pauses) {
    int64_t left = *stood_still == pauses ? 0 : end - now();
    return left > 0 ? (int)((left + 999999) / 1000000) : 0;
}

int poll(struct pollfd *files, nfds_t count, int timeout) {
    int64_t pauses = *stood_still, end = timeout > 0 ? now() + timeout * 1000000LL : 0;
    int result = real_poll(files, count, timeout);
    while (result == 0 && timeout > 0 && (timeout = left_of(end, pauses)) > 0) {
        pauses = *stood_still;
        result = real_poll(files, count, timeout);
    }
    return result;
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    int64_t pauses = *stood_still, end = timeout > 0 ? now() + timeout * 1000000LL : 0;
    int result = real_epoll_wait(epoll, events, most, timeout);
    while (result == 0 && timeout > 0 && (timeout = left_of(end, pauses)) > 0) {
        pauses = *stood_still;
        result = real_epoll_wait(epoll, events, most, timeout);
    }
    return result;
}

int select(int count, fd_set *reads, fd_set *writes, fd_set *errors, struct timeval *timeout) {
    if (!timeout) return real_select(count, reads, writes, errors, timeout);
    int64_t pauses = *stood_still, end = now() + timeout->tv_sec * SECOND + timeout->tv_usec * 1000LL;
    fd_set *sets[] = {reads, writes, errors}, asked[3];
    for (int i = 0; i < 3; i++)
        if (sets[i]) asked[i] = *sets[i];
    int result = real_select(count, reads, writes, errors, timeout);
    for (int left; result == 0 && (left = left_of(end, pauses)) > 0;) {
        pauses = *stood_still;
        for (int i = 0; i < 3; i++)
            if (sets[i]) *sets[i] = asked[i];
        timeout->tv_sec = left / 1000;
        timeout->tv_usec = left % 1000 * 1000;
        result = real_select(count, reads, writes, errors, timeout);
    }
    return result;
}
