/* config(1) makes this file; here the options come from the compiler's command line. */
