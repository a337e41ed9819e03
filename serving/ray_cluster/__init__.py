"""Ray and HAProxy on this machine: started, watched and stopped."""
