/* test_rundir.c - the runtime directory: made, checked, held by one daemon. */
#include "daemon/conf.h"
#include "daemon/rundir.h"
#include "tests/t.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct conf conf;
static struct errbuf eb;
static char path[400];

static void fresh(const char *under)
{
    snprintf(path, sizeof path, "%s%s", t_tmpdir(), under);
    memset(&conf, 0, sizeof conf);
    conf.runtime = path;
    eb.s[0] = 0;
}

static void it_is_made_with_its_parents_and_closed_to_others(void)
{
    struct stat st;
    int fd;

    fresh("/a/b/hearth");
    umask(022);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), 0);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0700);
    close(fd);
}
/* hearthd's umask is 077. */
static void the_systems_is_for_its_group_whatever_the_umask(void)
{
    struct stat st;
    int fd;

    fresh("/system/hearth");
    conf.system = true;
    umask(077);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), 0);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0750);
    close(fd);
    chmod(path, 0700); /* somebody's own choice */
    CHECK_EQ(rundir_take(&conf, &fd, &eb), 0);
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0700);
    close(fd);
}
static void on_a_disk_for_reading_only_it_is_to_be_mounted_for_writing(void)
{
    char disk[300];
    int fd;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        t_skip("only root can mount");
    fresh("/disk");
    snprintf(disk, sizeof disk, "%.290s", path);
    snprintf(path, sizeof path, "%s/hearth", disk);
    conf.state = path;
    CHECK(mkdir(disk, 0700) == 0 && mount("tmpfs", disk, "tmpfs", 0, NULL) == 0);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK_EQ(mount(NULL, disk, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    CHECK_EQ(rundir_state(&conf, &eb), -EROFS);
    CHECK(strstr(eb.s, "mount its file system for writing, or choose another with --state"));
    snprintf(path, sizeof path, "%s/another", disk);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), -EROFS);
    CHECK(strstr(eb.s, "mount its file system for writing, or choose another with --runtime"));
    CHECK_EQ(umount(disk), 0);
}
static void one_that_others_can_enter_is_refused(void)
{
    int fd;

    fresh("/open");
    mkdir(path, 0755);
    chmod(path, 0755);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), -EPERM);
    CHECK(strstr(eb.s, "0755") && strstr(eb.s, "chmod 700"));
    conf.system = true; /* its socket is for a group */
    CHECK_EQ(rundir_take(&conf, &fd, &eb), -EPERM);
    CHECK(strstr(eb.s, "chmod 750"));
    chmod(path, 0750);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), 0);
    close(fd);
    chmod(path, 0770);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), -EPERM);
}
static void a_link_of_another_user_is_not_followed(void)
{
    char own[500];
    int fd;

    if (geteuid() != 0)
        t_skip("wants root, to make a link of another user");
    fresh("/turned");
    snprintf(own, sizeof own, "%s.own", path);
    mkdir(own, 0700);
    CHECK_EQ(symlink(own, path), 0);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), 0); /* ours: a disk that was moved, say */
    close(fd);
    CHECK_EQ(lchown(path, 12345, 12345), 0);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), -EPERM);
    CHECK(strstr(eb.s, "12345"));
    conf.state = path;
    CHECK_EQ(rundir_state(&conf, &eb), -EPERM);
    CHECK(strstr(eb.s, "12345") && strstr(eb.s, "--state"));
}
static void a_state_directory_that_others_can_write_is_refused(void)
{
    static const mode_t bad[] = {0770, 0777, 0702, 01777};

    fresh("/state");
    conf.state = path;
    CHECK_EQ(rundir_state(&conf, &eb), 0); /* not there yet */
    mkdir(path, 0700);
    CHECK_EQ(rundir_state(&conf, &eb), 0);
    chmod(path, 0755); /* they may look at its name */
    CHECK_EQ(rundir_state(&conf, &eb), 0);
    for (int i = 0; i < 4; i++) {
        chmod(path, bad[i]);
        CHECK_EQ(rundir_state(&conf, &eb), -EPERM);
        CHECK(strstr(eb.s, "chmod go-w") && strstr(eb.s, path));
    }
    if (geteuid() != 0)
        return;
    chmod(path, 0700);
    CHECK_EQ(chown(path, 12345, 12345), 0);
    CHECK_EQ(rundir_state(&conf, &eb), -EPERM);
    CHECK(strstr(eb.s, "12345") && strstr(eb.s, "--state"));
}
/* Who may not use it is told what to type. */
static void a_state_directory_that_cannot_be_used_says_what_mends_it(void)
{
    char want[500];
    int r[2];

    fresh("/shut");
    conf.state = path;
    mkdir(path, 0700);
    CHECK_EQ(chmod(path, 0500), 0); /* can be looked into, not written */
    if (geteuid() == 0)
        CHECK(chown(path, 65534, 65534) == 0);
    *strrchr(path, '/') = 0; /* he must get there */
    CHECK_EQ(chmod(path, 0755), 0);
    path[strlen(path)] = '/';
    CHECK_EQ(pipe(r), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
            _exit(9);
        for (int i = 0; i < 2; i++) {
            if (rundir_state(&conf, &eb) != -EACCES)
                snprintf(eb.s, sizeof eb.s, "not refused");
            if (write(r[1], eb.s, sizeof eb.s) != sizeof eb.s)
                _exit(9);
            (void)chmod(path, 0);
        }
        _exit(0);
    }
    snprintf(want, sizeof want, "Permission denied; chmod u+rwx '%s', or choose", path);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(read(r[0], eb.s, sizeof eb.s), sizeof eb.s);
        if (!strstr(eb.s, want))
            t_fail(__FILE__, __LINE__, "\"%s\" lacks \"%s\"", eb.s, want);
    }
    close(r[0]);
    close(r[1]);
    waitpid(pid, NULL, 0);
}
static void one_that_belongs_to_another_is_refused(void)
{
    int fd;

    if (geteuid() != 0)
        t_skip("wants root, to make a directory of another user");
    fresh("/theirs");
    mkdir(path, 0700);
    CHECK_EQ(chown(path, 12345, 12345), 0);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), -EPERM);
    CHECK(strstr(eb.s, "12345") != NULL);
}
static void one_that_cannot_be_made_says_why_and_what_to_do(void)
{
    int fd;

    fresh("/file");
    fclose(fopen(path, "w"));
    strcat(path, "/hearth");
    CHECK(rundir_take(&conf, &fd, &eb) < 0);
    CHECK(strstr(eb.s, path) && strstr(eb.s, "--runtime"));
}
static void a_second_daemon_is_refused_with_the_pid_of_the_first(void)
{
    int fd = -1, up[2];
    char pid[32], b;

    fresh("/two");
    CHECK_EQ(pipe(up), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        bool ok = rundir_take(&conf, &fd, NULL) == 0;
        (void)!write(up[1], ok ? "y" : "n", 1);
        pause();
        _exit(0);
    }
    CHECK_EQ(read(up[0], &b, 1), 1);
    CHECK_EQ(b, 'y');
    CHECK_EQ(rundir_take(&conf, &fd, &eb), -EBUSY);
    snprintf(pid, sizeof pid, "(pid %d)", (int)child);
    if (!strstr(eb.s, pid))
        t_fail(__FILE__, __LINE__, "%s", eb.s);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_EQ(rundir_take(&conf, &fd, &eb), 0); /* the dead hold nothing */
    close(fd);
    close(up[0]);
    close(up[1]);
}
static void a_lock_that_is_a_link_is_not_followed(void)
{
    char link[500], other[500];
    int fd;

    fresh("/linked");
    mkdir(path, 0700);
    snprintf(link, sizeof link, "%s/hearthd.lock", path);
    snprintf(other, sizeof other, "%s/precious", path);
    CHECK_EQ(symlink(other, link), 0);
    CHECK(rundir_take(&conf, &fd, &eb) < 0);
    CHECK(access(other, F_OK) < 0);
}

#define CASE(f)                                                                                \
    {                                                                                          \
#        f, f                                                                                  \
    }
T_MAIN(CASE(a_state_directory_that_cannot_be_used_says_what_mends_it),
       CASE(it_is_made_with_its_parents_and_closed_to_others),
       CASE(the_systems_is_for_its_group_whatever_the_umask),
       CASE(on_a_disk_for_reading_only_it_is_to_be_mounted_for_writing),
       CASE(one_that_others_can_enter_is_refused), CASE(one_that_belongs_to_another_is_refused),
       CASE(one_that_cannot_be_made_says_why_and_what_to_do),
       CASE(a_second_daemon_is_refused_with_the_pid_of_the_first),
       CASE(a_lock_that_is_a_link_is_not_followed),
       CASE(a_link_of_another_user_is_not_followed),
       CASE(a_state_directory_that_others_can_write_is_refused))
