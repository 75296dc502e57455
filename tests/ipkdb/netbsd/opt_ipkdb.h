/* In a kernel build, config(1) makes this file. Here the compiler's command line sets the options. */
