@echo off
rem The kvfold command on Windows: runs the launcher of the same name in the bash that Git for Windows brings; the native
rem build needs that bash as well.
setlocal
set "KVFOLD_BASH="
for /f "delims=" %%G in ('where git 2^>nul') do (
    if not defined KVFOLD_BASH if exist "%%~dpG..\bin\bash.exe" set "KVFOLD_BASH=%%~dpG..\bin\bash.exe"
)
if not defined KVFOLD_BASH (
    echo kvfold: Git for Windows is missing. Install it: winget install Git.Git 1>&2
    exit /b 3
)
"%KVFOLD_BASH%" "%~dp0kvfold" %*
exit /b %ERRORLEVEL%
