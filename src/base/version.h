/* What the programs say they are. */
#ifndef OSTRICH_BASE_VERSION_H
#define OSTRICH_BASE_VERSION_H

#define OSTRICH_VERSION "0.1.0"
/* The release whose command line, protocols and formats are followed: clients decide by this number. */
#define COMPAT_VERSION  "7.2.0"

#endif
